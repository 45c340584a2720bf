"""Encoders: raw inputs of any modality to embeddings, with the tape's target layer."""
