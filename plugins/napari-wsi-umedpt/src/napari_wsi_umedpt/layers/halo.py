"""Words of a layer with a halo, white around dark ones and black around light ones: read on any tissue.

napari draws words from a picture of distances to each letter's edge. What lies just outside of the edge is drawn too,
in the other colour. Where napari draws words otherwise than is known here, they stay as they are.
"""

from typing import Any

from napari_wsi_umedpt.opening.opener import window_of

_LAST_LINES = (
    "if (alpha <= 0) discard;",
    "gl_FragColor = vec4(v_color.rgb, v_color.a * alpha);",
)
"""Last lines of the shader that draws words."""
_WITH_HALO = """
        float around = smoothstep(center - {reach} - width, center - {reach} + width, distance);
        float cover = max(alpha, around);
        if (cover <= 0.) discard;
        vec3 halo = vec3(1. - step(0.5, dot(v_color.rgb, vec3(0.3, 0.6, 0.1))));
        gl_FragColor = vec4(mix(halo, v_color.rgb, alpha), v_color.a * cover);
"""
_REACH = 0.4
"""Distance of a halo's end from a letter's edge, in units of that picture: about two px at the size of our words."""


def give_halo(viewer: Any, layer: Any) -> bool:
    """Draw a layer's words with a halo; False where napari is another than is known here."""
    try:
        visual = window_of(viewer)._qt_viewer.canvas.layer_to_visual[layer]
        program = visual.node.text.shared_program
        code = str(type(visual.node.text)._shaders["fragment"])
    except (AttributeError, KeyError, LookupError, TypeError):
        return False
    if not all(line in code for line in _LAST_LINES):
        return False
    drop, draw = _LAST_LINES
    program.frag = code.replace(drop, "").replace(draw, _WITH_HALO.format(reach=_REACH))
    return True
