"""One slide, from its file to its store. The only room where pixels meet networks."""

from wsi_umedpt._lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "CaseContents": "pipeline.case_report",
        "CorrectedField": "pipeline.correct",
        "EmbedTask": "pipeline.embed",
        "Lesson": "pipeline.lesson",
        "OnePass": "tasks.multihead",
        "PreparedSlide": "pipeline.prepare",
        "Progress": "pipeline.task",
        "SegmentTask": "pipeline.segment",
        "SlideTask": "pipeline.task",
        "TaskResult": "pipeline.task",
        "correct_head": "pipeline.correct",
        "encode_slide": "pipeline.embed",
        "fields_of": "pipeline.correct",
        "find_heads": "tasks.multihead",
        "object_heads": "models.head_spec",
        "plan_embedding": "pipeline.plan",
        "plan_segmentation": "pipeline.plan",
        "save_head": "pipeline.correct",
        "segment_slide": "pipeline.segment",
        "write_case_report": "pipeline.case_report",
    },
)
