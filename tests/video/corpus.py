"""Videos of every kind, made by ffmpeg, and what ffmpeg itself shows of them.

Each frame carries its number in bits, and its corners are red, green, blue and white (RGBW) from the top left.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

WIDTH, HEIGHT, FRAMES = 160, 120, 20
BITS = 10


def frame(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 RGB [height, width, 3]: a moving pattern, coloured corners, and a number below 1024 in two rows of bits."""
    across, down = np.arange(width)[None], np.arange(height)[:, None]
    picture = np.full((height, width, 3), 110, np.uint8)
    picture[..., 0] = 90 + 40 * np.sin((across + 3 * number) / 37)
    picture[..., 1] = 100 + 40 * np.sin((down + 2 * number) / 29)
    side = height // 5
    picture[:side, :side], picture[:side, -side:] = (220, 30, 30), (30, 200, 30)
    picture[-side:, :side], picture[-side:, -side:] = (30, 30, 220), (235, 235, 235)
    for bit in range(BITS):
        top, left = _bit_place(bit, width, height)
        picture[top : top + height // 6, left : left + width // 7] = 230 if number >> bit & 1 else 20
    return picture


def _bit_place(bit: int, width: int, height: int) -> tuple[int, int]:
    row, column = divmod(bit, BITS // 2)
    return height // 2 - height // 6 + row * (height // 6), width // 7 * (column + 1)


def number_in(picture: np.ndarray) -> int:
    """The number that an upright picture of any size shows."""
    height, width = picture.shape[:2]
    high, wide = height // 6, width // 7
    number = 0
    for bit in range(BITS):
        top, left = _bit_place(bit, width, height)
        inside = picture[top + high // 3 : top + 2 * high // 3, left + wide // 3 : left + 2 * wide // 3]
        number |= (inside.mean() > 125) << bit
    return int(number)


def corners(picture: np.ndarray) -> str:
    """The corners' colours from the top left, `?` where there is none of R, G, B and W."""
    height, width = picture.shape[:2]
    inset = min(height, width) // 10
    found = ""
    for row, column in (
        (inset, inset),
        (inset, width - inset),
        (height - inset, inset),
        (height - inset, width - inset),
    ):
        red, green, blue = picture[row - 3 : row + 3, column - 3 : column + 3].reshape(-1, 3).mean(0)
        if min(red, green, blue) > 160:
            found += "W"
        else:
            best = sorted(((red, "R"), (green, "G"), (blue, "B")), reverse=True)
            found += best[0][1] if best[0][0] > 1.4 * best[1][0] else "?"
    return found


def program() -> str:
    """The ffmpeg that imageio-ffmpeg brings; the test is skipped without it."""
    return str(pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg (extra dev) is missing").get_ffmpeg_exe())


@cache
def encoders() -> frozenset[str]:
    listed = subprocess.run([program(), "-hide_banner", "-encoders"], capture_output=True, text=True, check=True).stdout
    return frozenset(line.split()[1] for line in listed.splitlines() if re.match(r" [VAS][F.]", line))


@dataclass(frozen=True)
class Case:
    """How a video is made: numbered frames of `size` at `rate` through `coding` into `file`, and then, for each of
    `copies` (options before the input, options after it, file), the packets copied on.

    nominal: frame n is at n / rate; where ffmpeg's own times are those of decoding.
    """

    file: str
    coding: str
    rate: str = "25"
    size: tuple[int, int] = (WIDTH, HEIGHT)
    frames: int = FRAMES
    copies: tuple[tuple[str, str, str], ...] = ()
    fields: bool = False
    nominal: bool = False
    upright: bool = True
    exact_numbers: bool = True

    def make(self, folder: Path) -> Path:
        codec = re.search(r"-c:v (\S+)", self.coding)
        if codec and codec[1] not in encoders():
            pytest.skip(f"this ffmpeg cannot write {codec[1]}")
        path = folder / self.file
        width, height = self.size
        raw = b"".join(frame(number, width, height).tobytes() for number in range(self.frames))
        source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {self.rate} -i -".split()
        run([*source, *self.coding.split(), path], raw)
        for before, after, name in self.copies:
            copy = folder / name
            run([*before.split(), "-i", path, "-c", "copy", *after.split(), copy])
            path = copy
        return path

    def __str__(self) -> str:
        return self.file


def run(arguments: Sequence[str | Path], stdin: bytes | None = None) -> bytes:
    command = [program(), "-y", "-v", "error", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode(errors='replace')}"
    return done.stdout


@dataclass(frozen=True)
class Shown:
    """pictures: uint8 RGB [n, H, W, 3]; times: float64 [n], seconds from the first."""

    pictures: np.ndarray
    times: np.ndarray


def shown_by_ffmpeg(path: Path, fields: bool = False, before: Sequence[str] = ()) -> Shown:
    """Every frame of the video that ffmpeg takes by default: autorotated, woven, with square pixels."""
    filters = "bwdif=mode=send_frame:deint=interlaced," if fields else ""
    filters += "scale=w='max(1,round(iw*sar))':h=ih:flags=bicubic,setsar=1,showinfo=checksum=0"
    command = [
        program(),
        "-hide_banner",
        "-copyts",
        *before,
        "-i",
        str(path),
        "-vf",
        filters,
        "-fps_mode",
        "passthrough",
    ]
    done = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, timeout=120)
    log = done.stderr.decode(errors="replace")
    assert done.returncode == 0, log
    lines = [line for line in log.splitlines() if "pts_time" in line]
    times = np.array([float(re.search(r"pts_time:\s*(\S+)", line)[1]) for line in lines])  # type: ignore[index]
    width, height = map(int, re.findall(r" s:(\d+)x(\d+)", lines[0])[0])
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    return Shown(pictures, times[: len(pictures)] - times[0])


X264 = "-c:v libx264 -preset ultrafast -bf 2 -b_strategy 0 -g 10 -pix_fmt yuv420p"
X265 = "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=10 -pix_fmt yuv420p"
VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 10 -b:v 1M -pix_fmt yuv420p"
AV1 = "-c:v libsvtav1 -preset 12 -svtav1-params log-level=none -pix_fmt yuv420p"
MPEG2 = "-c:v mpeg2video -q:v 3 -bf 2 -g 10"
MPEG4 = "-c:v mpeg4 -q:v 3"
WOVEN = "-flags +ilme+ildct"

CODECS = [
    Case("h264.mp4", X264),
    Case("h264.mkv", X264),
    Case("h264.mov", X264),
    Case("h264.ts", X264),
    Case("h264.m2ts", X264),
    Case("h264.flv", X264),
    Case("h264.3gp", X264),
    Case("h264.3g2", X264),
    Case("h264.f4v", X264),
    Case("h264.nut", X264),
    Case("h264_open.mkv", f"{X264} -x264-params open-gop=1:bframes=3:b-adapt=0"),
    Case("h264_plain.avi", f"{X264} -bf 0"),
    Case("h264_reordered.avi", X264, nominal=True),
    Case("h264_raw.264", X264),
    Case("h264_raw.dav", f"{X264} -f h264"),
    Case("hevc.mp4", X265),
    Case("hevc.mkv", X265),
    Case("hevc.ts", X265),
    Case("hevc_raw.265", X265),
    Case("vp8.webm", "-c:v libvpx -deadline realtime -cpu-used 8 -b:v 1M -auto-alt-ref 1 -lag-in-frames 4"),
    Case("vp9.webm", VP9),
    Case("vp9.mp4", VP9),
    Case("vp9.ivf", VP9),
    Case("av1.mp4", AV1),
    Case("av1.mkv", AV1),
    Case("av1.obu", AV1),
    Case("mpeg2.mpg", MPEG2),
    Case("mpeg2.vob", f"{MPEG2} -f vob"),
    Case("mpeg2.ts", MPEG2),
    Case("mpeg2_raw.m2v", MPEG2),
    Case("mpeg1.mpg", "-c:v mpeg1video -q:v 3 -bf 2"),
    Case("mpeg4.mp4", f"{MPEG4} -bf 2"),
    Case("mpeg4.avi", f"{MPEG4}"),
    Case("xvid_reordered.avi", f"{MPEG4} -bf 2 -vtag XVID", nominal=True),
    Case("msmpeg4.avi", "-c:v msmpeg4 -q:v 3"),
    Case("wmv2.wmv", "-c:v wmv2 -q:v 3"),
    Case("wmv1.asf", "-c:v wmv1 -q:v 3"),
    Case("flv1.flv", "-c:v flv -q:v 3"),
    Case("mjpeg.avi", "-c:v mjpeg -q:v 3"),
    Case("mjpeg.mov", "-c:v mjpeg -q:v 3"),
    Case("ffv1.mkv", "-c:v ffv1"),
    Case("prores.mov", "-c:v prores_ks"),
    Case("dnxhr.mxf", "-c:v dnxhd -profile:v dnxhr_sq -pix_fmt yuv422p", size=(256, 120)),
    Case("theora.ogv", "-c:v libtheora -q:v 8"),
    Case("huffyuv.avi", "-c:v huffyuv"),
    Case("utvideo.avi", "-c:v utvideo"),
    Case("raw.avi", "-c:v rawvideo -pix_fmt bgr24"),
    Case("raw.y4m", "-pix_fmt yuv420p"),
    Case("colours.gif", "-c:v gif"),
    Case("png.apng", "-c:v apng"),
    Case("h263.3gp", "-c:v h263 -q:v 3", size=(176, 144)),
    Case("rv20.rm", "-c:v rv20 -q:v 3"),
    Case("svq1.mov", "-c:v svq1 -q:v 3"),
    Case("cinepak.avi", "-c:v cinepak", frames=5),
    Case("qtrle.mov", "-c:v qtrle"),
    Case("jpeg2000.mov", "-c:v jpeg2000"),
    Case("tv.wtv", MPEG2),
]
FIELDS = [
    Case("top_first.mpg", f"{MPEG2} {WOVEN} -field_order tt", fields=True),
    Case("bottom_first.mpg", f"{MPEG2} {WOVEN} -field_order bb", fields=True),
    Case("top_first.mp4", f"{X264} {WOVEN} -x264-params tff=1", fields=True),
    Case("bottom_first.mkv", f"{X264} -x264-params bff=1", fields=True),
    Case("avchd.mts", f"{X264} -x264-params tff=1 -f mpegts", fields=True),
    Case("prores_fields.mov", f"-vf setfield=tff -c:v prores_ks {WOVEN}", fields=True),
    Case("camera.dv", "-c:v dvvideo -pix_fmt yuv420p -aspect 4:3", size=(720, 576), frames=4, fields=True),
]
TURNED = [
    Case("turn90.mp4", X264, copies=(("-display_rotation 90", "", "turned90.mp4"),), upright=False),
    Case("turn180.mp4", X264, copies=(("-display_rotation 180", "", "turned180.mp4"),), upright=False),
    Case("turn270.mov", X264, copies=(("-display_rotation 270", "", "turned270.mov"),), upright=False),
    Case("mirror.mp4", X264, copies=(("-display_hflip", "", "mirrored.mp4"),), upright=False),
    Case("flip.mp4", X264, copies=(("-display_vflip", "", "flipped.mp4"),), upright=False),
    Case("front.mp4", X264, copies=(("-display_rotation 90 -display_hflip", "", "fronted.mp4"),), upright=False),
    Case("front2.mp4", X264, copies=(("-display_rotation 270 -display_hflip", "", "fronted2.mp4"),), upright=False),
    Case("turn90.mkv", X264, copies=(("-display_rotation 90", "", "turned90.mkv"),), upright=False),
]
SHAPES = [
    Case("wide2.mp4", f"{X264} -vf setsar=2"),
    Case("wide4to3.mkv", f"{X264} -vf setsar=4/3"),
    Case("narrow8to9.mp4", f"{X264} -vf setsar=8/9"),
    Case("half.mov", f"{X264} -vf setsar=1/2"),
    Case("dvd16to9.mpg", f"{MPEG2} -aspect 16:9"),
    Case("wide_woven.mpg", f"{MPEG2} {WOVEN} -field_order tt -aspect 16:9", fields=True),
    Case(
        "wide_turn.mp4",
        f"{X264} -vf setsar=2",
        copies=(("-display_rotation 90", "", "wide_turned.mp4"),),
        upright=False,
    ),
    Case("odd_size.avi", "-c:v mjpeg -q:v 3 -pix_fmt yuvj444p", size=(161, 121)),
]
COLOURS = [
    Case("yuv422.mp4", f"{X264} -pix_fmt yuv422p"),
    Case("yuv444.mkv", f"{X264} -pix_fmt yuv444p"),
    Case("ten_bits.mp4", f"{X264} -pix_fmt yuv420p10le"),
    Case("ten_bits_422.mov", "-c:v prores_ks -profile:v 3 -pix_fmt yuv422p10le"),
    Case("hevc_ten_bits.mp4", f"{X265} -pix_fmt yuv420p10le"),
    Case("twelve_bits.mkv", "-c:v ffv1 -pix_fmt yuv444p12le"),
    Case("rgb.mkv", "-c:v ffv1 -pix_fmt bgr0"),
    Case("alpha.mov", "-c:v qtrle -pix_fmt argb"),
    Case("gray.mkv", "-c:v ffv1 -pix_fmt gray", upright=False),
    Case("full_range.mp4", f"{X264} -vf scale=out_range=full -color_range pc"),
    Case(
        "bt709.mp4",
        f"{X264} -vf scale=out_color_matrix=bt709 -colorspace bt709 -color_primaries bt709 -color_trc bt709",
    ),
    Case("bt2020.mp4", f"{X265} -vf scale=out_color_matrix=bt2020 -pix_fmt yuv420p10le -colorspace bt2020nc"),
    Case("bt709_full.mkv", f"{X264} -vf scale=out_color_matrix=bt709:out_range=full -colorspace bt709 -color_range pc"),
]
UNEVEN = "settb=1/1000,setpts='N*40+if(gt(mod(N,5),2),17,0)+floor(N/7)*400'"
PAUSE = "settb=1/1000,setpts='N*40+if(gt(N,9),20000,0)'"
VARIABLE = "-fps_mode vfr -enc_time_base 1/1000"
TIMES = [
    Case("r2997.mp4", X264, "30000/1001"),
    Case("r23976.mkv", X264, "24000/1001"),
    Case("r5994.ts", X264, "60000/1001"),
    Case("r1.mp4", X264, "1"),
    Case("r120.mp4", X264, "120"),
    Case("r12_5.avi", MPEG4, "12.5"),
    Case("late.mp4", f"{X264} -output_ts_offset 7.3"),
    Case("late.ts", f"{X264} -output_ts_offset 100"),
    Case("uneven.mp4", f"{X264} -vf {UNEVEN} {VARIABLE}"),
    Case("uneven.mkv", f"{X264} -vf {UNEVEN} {VARIABLE}"),
    Case("pause.mkv", f"{X264} -vf {PAUSE} {VARIABLE}"),
    Case("cut.mp4", X264, copies=(("-ss 0.5", "", "edit_list.mp4"),), exact_numbers=False),
    Case("cut.mkv", X264, copies=(("-ss 0.5", "", "entered.mkv"),), exact_numbers=False),
    Case("stampless.avi", X264, nominal=True, copies=(("-fflags +genpts", "", "stampless.mp4"),)),
    Case("fragments.mp4", f"{X264} -movflags +frag_keyframe+empty_moov"),
    Case("front_index.mp4", f"{X264} -movflags +faststart"),
]  # fmt: skip
CASES = [*CODECS, *FIELDS, *TURNED, *SHAPES, *COLOURS, *TIMES]
SLOW = [
    replace(CODECS[0], file="vvc.mp4", coding="-c:v libvvenc -preset faster -pix_fmt yuv420p10le"),
    Case("av1_aom.mkv", "-c:v libaom-av1 -cpu-used 8 -lag-in-frames 8"),
]
