"""What the library knows of the machine: devices, kernels, precision, memory, ranks."""
