"""Readers of medical image files: one file of a source to the images that lie in it, as 8-bit pixels.

config.py     what a catalogue entry says of its files: kind, windows, slices, tiles, fit, limits
parts.py      the way in: list_parts, read_part, ingest_part
detection.py  what kind of file it is, by its content
plain.py      PNG, JPEG and TIFF, deep ones and pages included
nifti.py      slices of NIfTI volumes
slides.py     tiles of whole slides
arrays.py     rows of npz, npy and HDF5 arrays
shape.py      images to squares

DICOM frames, and values of any depth to 8-bit levels, are `clipmed.scans`', which the library reads with too.
"""
