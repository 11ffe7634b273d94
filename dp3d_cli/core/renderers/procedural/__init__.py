"""Procedural 3D heads: people from seeds, rendered from any camera in torch, with nothing downloaded."""

from dp3d_cli.core.renderers.procedural.head import FACE_POINTS, ProceduralHead, render_subjects
from dp3d_cli.core.renderers.procedural.splat import Rendering
from dp3d_cli.core.renderers.procedural.subject import Subject, draw_subject

__all__ = ["FACE_POINTS", "ProceduralHead", "Rendering", "Subject", "draw_subject", "render_subjects"]
