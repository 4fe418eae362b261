"""ESP2, devices and number formats."""
