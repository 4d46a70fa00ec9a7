"""Networks: encoders, their weights and what runs them. Nothing here knows of slides."""
