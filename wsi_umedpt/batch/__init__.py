"""Many slides: which they are, who works on them, and what became of each."""

from wsi_umedpt._lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "Batch": "batch.run",
        "Outcome": "batch.coordination.result",
        "Rules": "batch.coordination.attempts",
        "SlideRunner": "batch.run",
        "StageRule": "batch.jobs.staging",
        "Watcher": "batch.coordination.result",
        "list_slides": "batch.jobs.manifest",
        "run_slides": "batch.run",
    },
)
