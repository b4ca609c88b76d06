"""AdamW in float32, in 8 bits, with masters or without, on the device or in host memory."""
