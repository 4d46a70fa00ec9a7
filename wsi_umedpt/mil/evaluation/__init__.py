"""From held-out predictions to figures with intervals, pictures and a page; nothing here knows of models."""
