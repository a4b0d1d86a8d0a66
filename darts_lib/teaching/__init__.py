"""What the chapters need beside the method: parameters, exercises, wrong gradients.

For whoever writes or changes a chapter.
"""
