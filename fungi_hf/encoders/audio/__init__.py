"""Sound encoders: decoding, front-ends and model families behind one protocol."""
