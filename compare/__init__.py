"""Compare burnish's answer for a given model with what other quantizers make of the same file and images."""
