"""Data sets from files, tables, arrays and torchvision, on the device."""
