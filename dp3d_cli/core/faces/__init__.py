"""Finding faces and placing them: detectors, and the crop that EG3D and DiffPortrait3D expect."""
