"""`wsi-umedpt doctor`: what is installed, which devices are there, what is known to be bad."""

from wsi_umedpt.messages import counted

PACKAGES = (
    "wsi-umedpt",
    "openslide-python", "openslide-bin", "tifffile", "simplejpeg", "imagecodecs", "opencv-python-headless",
    "numpy", "zarr", "torch", "torchvision", "timm", "openvino", "dask", "napari", "h5py", "shapely",
    "pylibCZIrw", "wsidicom",
)  # fmt: skip
EXTRAS = {
    "openvino": ("openvino", "encoders on a CPU, twice as fast"),
    "pylibCZIrw": ("czi", "CZI slides of channels"),
    "wsidicom": ("dicom", "DICOM slides on a DICOMweb server, and those that OpenSlide refuses, as of JPEG-LS"),
}
"""Extra that installs a package, and its purpose."""


def doctor() -> int:
    """Print versions and devices, and warn of libraries that are known to be unsafe or broken.

    Exit code 1 if something must be mended.
    """
    import importlib.metadata
    import os
    import platform

    import openslide
    import torch

    from wsi_umedpt.models.encoder import pick_device
    from wsi_umedpt.slides.readers.base import default_threads

    versions: dict[str, str] = {}
    print(
        f"python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores, {default_threads()} used"
    )
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
            if name in EXTRAS:
                extra, purpose = EXTRAS[name]
                versions[name] += f"; pip install 'wsi-umedpt[{extra}]' for {purpose}"
        print(f"  {name:24} {versions[name]}")
    versions["openslide library"] = openslide.__library_version__
    print(f"  {'openslide library':24} {openslide.__library_version__}")
    print(f"device 'auto' is {pick_device('auto')}")
    for n in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(n).total_memory / 2**30
        print(f"  cuda:{n} {torch.cuda.get_device_name(n)}, {memory:.0f} GiB")
    bad = complaints(versions)
    for line in bad:
        print(f"PROBLEM: {line}")
    print("no known problems" if not bad else counted(len(bad), "problem"))
    return 1 if bad else 0


def complaints(versions: dict[str, str]) -> list[str]:
    """Known bad versions among those given."""
    rules = (
        ("openslide library", (4, 0, 1), "older ones write outside memory on a crafted Ventana BIF (CVE-2026-48977)"),
        ("torch", (2, 6), "older ones run code from weights files in spite of weights_only (CVE-2025-32434)"),
        ("zarr", (3, 0, 8), "older ones lack zarr v3 as stores need it"),
    )
    found = []
    for name, least, why in rules:
        numbers = tuple(int(part) for part in versions.get(name, "").split("+")[0].split(".")[:3] if part.isdigit())
        if numbers and numbers < least:
            found.append(f"{name} {versions[name]}; needs {'.'.join(map(str, least))} or newer: {why}")
    return found
