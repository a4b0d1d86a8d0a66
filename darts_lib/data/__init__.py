"""Images, folders of pictures, ImageNet and text: read, checked, and put on the device.

For whoever brings data of their own.
"""
