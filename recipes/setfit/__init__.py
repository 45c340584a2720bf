"""SetFit, contrastive fine-tuning of the encoder, beside frozen features: accuracy and seconds."""
