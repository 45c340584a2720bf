"""Images: what is taken, how pixels are made, and the models that read them."""
