"""Medical image files whose values become 8-bit levels: what the library and the dataset builders read alike.

config.py     windows, frames and limits
dicom.py      DICOM frames; dicom_codecs.py: compressed pixels; dicom_facts.py: what their tags may tell
intensity.py  values of any depth to 8-bit levels
shape.py      pixels to square ones
"""
