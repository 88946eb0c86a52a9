"""What at least two stages use: texts, devices and seeds, command lines, the look of the pictures. It imports no stage."""
