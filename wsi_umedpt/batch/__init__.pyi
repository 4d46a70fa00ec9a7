from wsi_umedpt.batch.coordination.attempts import Rules as Rules
from wsi_umedpt.batch.coordination.result import Outcome as Outcome
from wsi_umedpt.batch.coordination.result import Watcher as Watcher
from wsi_umedpt.batch.jobs.manifest import list_slides as list_slides
from wsi_umedpt.batch.jobs.staging import StageRule as StageRule
from wsi_umedpt.batch.run import Batch as Batch
from wsi_umedpt.batch.run import SlideRunner as SlideRunner
from wsi_umedpt.batch.run import run_slides as run_slides
