"""Cameras around a head: the 25-number label of EG3D, trajectories, and the files that hold them.

World: right-handed, y up, the face looks along +z, +x is the viewer's right. Camera: OpenCV axes (x right,
y down, z forward). `yaw > 0` moves the camera to +x; `pitch < 0` moves it above the face, as in EG3D.
"""
