"""Identity: how alike two faces are to a face recognition network.

DiffPortrait3D (arXiv 2312.13016) measures it against the *reference* portrait in Sec. 4.2 and against the
*ground truth* in supplement A.2; both are the same cosine of the same embeddings, so compute the embeddings
once per picture and compare each with both.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.faces.detect import Detector
from dp3d_cli.core.metrics.face_models import FaceModel, load_face_detector, load_face_model
from dp3d_cli.core.metrics.pictures import Picture, check_picture

Embedding = NDArray[np.float32]

CROP_SIZE = 112
"""Side of the aligned face that ArcFace networks see [px]."""
_MODEL = "w600k_r50.onnx"


class FaceIdentity:
    """ArcFace embeddings by insightface's buffalo_l (ResNet-50 trained on WebFace600K), on the CPU.

    The face is the largest one that the detector finds. Its five points decide the crop; nothing is resized
    but by that one warp, so that pictures of any size may be compared.
    """

    def __init__(self, recogniser: FaceModel, detector: Detector) -> None:
        """Use `load`."""
        self._recogniser, self._detector = recogniser, detector

    @classmethod
    def load(cls, detector: Detector | None = None) -> FaceIdentity:
        """The network of the model folder buffalo_l.

        Args:
            detector: gives the five points, which must be real ones; that of the same folder if None.

        Raises:
            WeightsError: the models are not on this machine ("weights-missing", with the command that gets
                them), are not the published ones ("weights-damaged"), or the package is missing.
        """
        recogniser = load_face_model(_MODEL, "recognition", CROP_SIZE)
        return cls(recogniser, load_face_detector() if detector is None else detector)

    def features(self, picture: Picture) -> Embedding | None:
        """The embedding of the largest face, of length 1.

        Args:
            picture: uint8 [H, W, 3] RGB, any size.

        Returns:
            float32 [512]; None if no face with real landmarks is found, or its points coincide.

        Raises:
            ValueError: not a uint8 RGB picture.
        """
        check_picture(picture)
        faces = self._detector.detect(picture)
        if not faces or faces[0].landmarks is None or not faces[0].has_real_landmarks:
            return None
        crop = crop_face(picture, faces[0].landmarks)
        return None if crop is None else self.features_of_crop(crop)

    def features_of_crop(self, crop: Picture) -> Embedding:
        """The embedding of an aligned face uint8 [112, 112, 3] RGB: float32 [512] of length 1.

        Raises:
            ValueError: another size, or not uint8 RGB.
        """
        check_picture(crop)
        if crop.shape[:2] != (CROP_SIZE, CROP_SIZE):
            raise ValueError(f"An aligned face is {CROP_SIZE} x {CROP_SIZE}, got {crop.shape[:2]}.")
        embedding = self._recogniser.model.get_feat(cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))
        wide = np.asarray(embedding, np.float64).ravel()
        return np.asarray(wide / np.linalg.norm(wide), np.float32)

    def describe(self) -> dict[str, object]:
        """What decides the number, for reports."""
        return {
            **self._recogniser.describe(),
            "network": "ArcFace, ResNet-50",
            "detector": self._detector.name,
            "detector_weights": dict(self._detector.weights),
            "face": "largest",
            "range": "uint8 RGB 0..255, scaled to [-1, 1]",
            "resize": f"five-point similarity warp to {CROP_SIZE} x {CROP_SIZE}, bilinear, black outside",
            "resize_library": f"opencv {cv2.__version__}",
        }


def crop_face(picture: Picture, landmarks: NDArray[np.float64]) -> Picture | None:
    """The face as ArcFace networks expect it: insightface's `norm_crop`.

    A similarity (least squares, Umeyama) brings the five points to insightface's places, bilinear, black
    outside the picture. insightface 2.1 fits it by a method of scikit-image that warns and goes away, hence
    by the function that stays.

    Args:
        picture: uint8 [H, W, 3] RGB.
        landmarks: [5, 2] pixel indices in the order of `Face.landmarks`.

    Returns:
        uint8 [112, 112, 3]; None if the points do not span a similarity.
    """
    from insightface.utils.face_align import arcface_dst
    from skimage.transform import estimate_transform

    if not (np.isfinite(landmarks).all() and np.ptp(landmarks, axis=0).max() > 1e-3):
        return None
    matrix = estimate_transform("similarity", landmarks, arcface_dst).params[:2]
    return np.asarray(cv2.warpAffine(picture, matrix, (CROP_SIZE, CROP_SIZE), borderValue=0.0))


def cosine(a: Embedding, b: Embedding) -> float:
    """Cosine of the angle between two embeddings, in [-1, 1]; 1 is the same face. Sums in float64.

    Raises:
        ValueError: not two vectors of one length, or one of them is zero or not finite.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"Embeddings must be vectors of one length, got shapes {x.shape} and {y.shape}.")
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    if not (np.isfinite(norm) and norm > 0):
        raise ValueError("An embedding is zero or not finite.")
    return min(1.0, max(-1.0, float(x @ y) / norm))
