"""The quantizers that burnish is compared with: one file each, executed in the peers' own environment (.venv-peers).

A peer has `FORMS`: name -> function that quantizes an ONNX file. Its docstring says with which settings, and goes into
the published table. It gets the file, the calibration images as the file takes them, float32 (images, channels, height,
width), and an empty folder for what it writes; it returns the quantized file. burnish is not installed in that
environment, so nothing of it is imported here.
"""
