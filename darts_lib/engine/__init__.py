"""The machinery of a run: settings, folder, resume, ranks. It knows no cell, image or word.

For whoever changes how runs are kept, resumed, recorded or spread over devices.
"""
