from wsi_umedpt.segmentation.hotspots import HOTSPOT_MM2 as HOTSPOT_MM2
from wsi_umedpt.segmentation.hotspots import Hotspot as Hotspot
from wsi_umedpt.segmentation.hotspots import find_hotspots as find_hotspots
from wsi_umedpt.segmentation.hotspots import hotspot_rows as hotspot_rows
from wsi_umedpt.segmentation.object_stats import slide_row as slide_row
from wsi_umedpt.segmentation.region_counts import RegionCounts as RegionCounts
from wsi_umedpt.segmentation.region_counts import count_in_region as count_in_region
from wsi_umedpt.segmentation.region_counts import region_rows as region_rows
