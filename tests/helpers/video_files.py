"""Video files of kinds that this project does not write itself."""

from pathlib import Path

import av


def cut_away(source: Path, target: Path, frames: int) -> Path:
    """Copy an MP4 as an editor trims it: its first frames are in the file, before time 0, and are not shown."""
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        template = before.streams.video[0]
        stream = after.add_stream_from_template(template)
        for packet in before.demux(video=0):
            if packet.dts is not None:
                earlier = round(frames / template.average_rate / packet.time_base)
                packet.pts -= earlier
                packet.dts -= earlier
                packet.stream = stream
                after.mux(packet)
    return target
