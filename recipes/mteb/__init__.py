"""MTEB tasks built from the committed Banking-77, and their runner."""
