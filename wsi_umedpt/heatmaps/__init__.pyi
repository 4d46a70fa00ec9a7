from wsi_umedpt.heatmaps.raster import SCALINGS as SCALINGS
from wsi_umedpt.heatmaps.raster import Heatmap as Heatmap
from wsi_umedpt.heatmaps.raster import Scaling as Scaling
from wsi_umedpt.heatmaps.raster import fitting_scaling as fitting_scaling
from wsi_umedpt.heatmaps.raster import scaled as scaled
from wsi_umedpt.heatmaps.stored import heatmap as heatmap
