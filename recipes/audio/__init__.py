"""Audio recipes: leave-one-speaker-out digits and environmental sounds."""
