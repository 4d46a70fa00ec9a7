"""One slide, from its file to its store. The only room where pixels meet networks."""

from wsi_umedpt._lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "CaseContents": "pipeline.case_report",
        "EmbedTask": "pipeline.embed",
        "OnePass": "tasks.multihead",
        "PreparedSlide": "pipeline.prepare",
        "Progress": "pipeline.task",
        "SegmentTask": "pipeline.segment",
        "SlideTask": "pipeline.task",
        "TaskResult": "pipeline.task",
        "encode_slide": "pipeline.embed",
        "find_heads": "tasks.multihead",
        "object_heads": "models.head_spec",
        "plan_embedding": "pipeline.plan",
        "plan_segmentation": "pipeline.plan",
        "segment_slide": "pipeline.segment",
        "write_case_report": "pipeline.case_report",
    },
)
