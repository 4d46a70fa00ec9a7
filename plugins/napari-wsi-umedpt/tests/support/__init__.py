"""What several tests share: a planted slide, tiny models, a screen, and a person at mouse and keyboard."""
