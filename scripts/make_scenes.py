"""Write the demo's data: pictures of scenes, captions, triplets and two dense benchmarks, in the folder format.

    python scripts/make_scenes.py --output runs/demo/data
    python scripts/make_scenes.py --sprites MY_CUTOUTS --output my_scenes --triplets 20000
    python scripts/make_scenes.py --output runs/validation --draw 1    # other scenes, to choose settings on
    python scripts/make_scenes.py --output runs/open --open 0.5        # several right answers, pictures twice
    python scripts/make_scenes.py --output runs/turns --sessions 16    # sessions of two and three edits as well
    python scripts/make_scenes.py --output runs/negatives --negatives 0.3    # words for what must not be seen

Writes three folders. `train/` holds pairs.jsonl and triplets.jsonl; `seen/` is a benchmark of new scenes of objects
that train/ knows, `unseen/` one of objects that train/ never shows. On request, `sessions/` is one of sessions of edits
(toy/sessions.py) whose scenes are in none of the others, and `seen-negatives/` and `unseen-negatives/` are benchmarks
of queries that say what to avoid, which train/ teaches then too (toy/negatives.py). Each benchmark reference has 16
edits, and all their results stand in the gallery: the picture alone can find at most one in sixteen. References come in
groups that share their objects, so that the instruction alone does not give the answer away either.
"""

from __future__ import annotations

import argparse
import json
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mllm_embed.errors import ConfigError, DataError, user_errors
from toy.negatives import KINDS as CHOICES
from toy.negatives import Reference as Choosing
from toy.negatives import choice, choosing_references, choosing_rows, negatives_benchmark
from toy.open_scenes import open_edit, open_rows
from toy.scenes import KINDS, Edit, Painter, Scene, caption, sample_edit, sample_scene
from toy.sessions import session_trees, sessions_benchmark

EDITS = 16
GROUP = 8
TEST_SEED = 20412
SESSIONS, SESSIONS_SEED = "sessions", 90125
NEGATIVES, NEGATIVES_SEED = "negatives", 31337
UNSEEN = 20  # objects kept for the second test set
QUALITY = 92  # of the pictures, as JPEG
MIN_NOUNS = 4  # three in a scene, and one to replace them with


@dataclass(frozen=True)
class Reference:
    """A scene with its edits."""

    scene: Scene
    edits: tuple[Edit, ...]


def split_nouns(nouns: list[str], unseen: int) -> tuple[list[str], list[str]]:
    """Return seen and unseen nouns; a fixed shuffle, so that the pretraining and the demo agree."""
    shuffled = random.Random(TEST_SEED).sample(sorted(nouns), len(nouns))
    return sorted(shuffled[unseen:]), sorted(shuffled[:unseen])


def dense_references(nouns: list[str], count: int, seed: int) -> list[Reference]:
    """Return `count` references with 16 different edits each; every group of 8 draws on the same few objects."""
    rng = random.Random(seed)
    references: list[Reference] = []
    known: set[Scene] = set()
    while len(references) < count:
        pool = rng.sample(nouns, min(8, len(nouns)))
        group = min(len(references) + GROUP, count)
        while len(references) < group:
            scene = sample_scene(rng, pool, rng.choice((2, 2, 3)))
            edits = _distinct_edits(rng, scene, pool)
            if known.isdisjoint({scene, *(edit.result for edit in edits)}):
                known |= {scene, *(edit.result for edit in edits)}
                references.append(Reference(scene, tuple(edits)))
    return references


def _distinct_edits(rng: random.Random, scene: Scene, pool: list[str]) -> list[Edit]:
    """Return edits of all kinds in turn, until there are 16 different results."""
    found: dict[Scene, Edit] = {}
    turn = 0
    while len(found) < EDITS:
        edit = sample_edit(rng, scene, pool, KINDS[turn % len(KINDS)])
        turn += 1
        if edit is not None:
            found.setdefault(edit.result, edit)
    return list(found.values())


def benchmarks(
    nouns: list[str], references: int = 40, unseen: int = UNSEEN, draw: int = 0
) -> dict[str, list[Reference]]:
    """Return both benchmarks; another `draw` has other scenes of the same objects, to choose settings on."""
    seen_nouns, unseen_nouns = split_nouns(nouns, unseen)
    return {
        "seen": dense_references(seen_nouns, references, TEST_SEED + 1 + 2 * draw),
        "unseen": dense_references(unseen_nouns, references, TEST_SEED + 2 + 2 * draw),
    }


def negatives_benchmarks(
    nouns: list[str], references: int = 40, unseen: int = UNSEEN, draw: int = 0
) -> dict[str, list[Choosing]]:
    """Return the benchmarks of explicit negatives, of seen and unseen objects, as `benchmarks` does its own."""
    parts = zip(("seen", "unseen"), split_nouns(nouns, unseen), strict=True)
    return {
        f"{name}-{NEGATIVES}": choosing_references(own, references, NEGATIVES_SEED + at + 2 * draw)
        for at, (name, own) in enumerate(parts)
    }


def held_out_scenes(nouns: list[str]) -> set[Scene]:
    """Return the scenes of both benchmarks at their default sizes: not even the base model's training may show them."""
    tests = benchmarks(nouns).values()
    return {scene for test in tests for r in test for scene in (r.scene, *(edit.result for edit in r.edits))}


def write_benchmark(folder: Path, name: str, references: list[Reference], paint: Pictures) -> None:
    """Write the benchmark.json of a folder, and note its pictures to be painted."""
    gallery, queries = [], []
    for number, reference in enumerate(references):
        source = f"{number:03d}-00"
        gallery.append(gallery_entry(source, paint(folder, source, reference.scene), reference.scene))
        for row, edit in enumerate(reference.edits, 1):
            target = f"{number:03d}-{row:02d}"
            gallery.append(gallery_entry(target, paint(folder, target, edit.result), edit.result))
            queries.append(
                {
                    "id": f"q{target}", "image": gallery[-row - 1]["image"], "instruction": edit.instruction,
                    "targets": [target], "exclude": [source], "kind": edit.kind,
                    "paraphrases": edit.paraphrases, "negatives": [source],
                }
            )  # fmt: skip
    text = json.dumps({"name": name, "gallery": gallery, "queries": queries}, indent=1)
    (folder / "benchmark.json").write_text(text, encoding="utf-8")


def write_negatives(folder: Path, name: str, references: list[Choosing], paint: Pictures) -> None:
    """Write the benchmark.json of a folder of explicit negatives, and note its pictures to be painted."""

    def entry(id: str, scene: Scene) -> dict[str, Any]:
        return gallery_entry(id, paint(folder, id, scene), scene)

    text = json.dumps(negatives_benchmark(name, references, entry), indent=1)
    (folder / "benchmark.json").write_text(text, encoding="utf-8")


def write_sessions(folder: Path, name: str, nouns: list[str], count: int, draw: int, paint: Pictures) -> None:
    """Write the benchmark.json of a folder of sessions; their scenes are none of those that are to be painted."""

    def entry(id: str, scene: Scene) -> dict[str, Any]:
        return gallery_entry(id, paint(folder, id, scene), scene)

    folder.mkdir(parents=True, exist_ok=True)
    others = {scene for scene, _ in paint.wanted.values()}
    trees = session_trees(nouns, count, SESSIONS_SEED + draw, others)
    text = json.dumps(sessions_benchmark(name, trees, entry), indent=1)
    (folder / "benchmark.json").write_text(text, encoding="utf-8")


def gallery_entry(id: str, image: str, scene: Scene) -> dict[str, Any]:
    """Return a scene as a gallery has it, with what searches may be narrowed by."""
    nouns = sorted(thing.noun for thing in scene.things)
    return {
        "id": id, "image": image, "caption": caption(scene),
        "background": scene.background, "things": nouns, "count": len(nouns),
    }  # fmt: skip


def write_training(
    folder: Path,
    rng: random.Random,
    nouns: list[str],
    forbidden: set[Scene],
    sizes: tuple[int, int, int],
    paint: Pictures,
    open_share: float = 0.0,
    negatives_share: float = 0.0,
) -> None:
    """Write train/; `sizes` are caption pairs, triplets, and edits on each reference picture.

    Of a share of the references the instructions leave the place open, as `toy.open_scenes` has it, and of another the
    rows say what to avoid, as `toy.negatives` has it.
    """
    pairs, triplets, per_reference = sizes

    def fresh() -> Scene:
        scene = sample_scene(rng, nouns)
        return fresh() if scene in forbidden else scene

    rows = []
    for number in range(pairs):
        scene = fresh()
        rows.append(
            {"id": f"p{number:06d}", "image": paint(folder, f"p{number:06d}", scene), "caption": caption(scene, rng)}
        )
    _write_rows(folder / "pairs.jsonl", rows)
    rows = []
    while len(rows) < triplets:
        source, name = fresh(), f"t{len(rows):06d}"
        changes = open_edit(rng, source, nouns) if open_share and rng.random() < open_share else None
        if changes and forbidden.isdisjoint(change.result for change in changes):
            rows += open_rows(rng, name, source, changes, partial(paint, folder))[: triplets - len(rows)]
            continue
        if negatives_share and len(source.things) < 3 and rng.random() < negatives_share:
            choices = [choice(rng, source, nouns, kind) for kind in rng.sample(CHOICES, 2)]
            if forbidden.isdisjoint(result for own in choices for result in own.results):
                rows += choosing_rows(rng, name, source, choices, partial(paint, folder))[: triplets - len(rows)]
                continue
        source_text = caption(source, rng)
        edits = {e.result: e for _ in range(per_reference * 2) if (e := sample_edit(rng, source, nouns))}
        allowed = [edit for edit in edits.values() if edit.result not in forbidden][:per_reference]
        allowed = allowed[: triplets - len(rows)]
        for letter, edit in enumerate(allowed):
            rows.append(
                {
                    "id": f"{name}-{letter}", "image": paint(folder, name, source), "instruction": edit.instruction,
                    "target_image": paint(folder, f"{name}-{letter}", edit.result),
                    "target_text": caption(edit.result, rng), "source_text": source_text, "kind": edit.kind,
                }
            )  # fmt: skip
    _write_rows(folder / "triplets.jsonl", rows)


def _write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class Pictures:
    """A list of what is to be painted, which names the files at once and paints them in two processes at the end."""

    def __init__(self) -> None:
        self.wanted: dict[Path, tuple[Scene, int]] = {}

    def __call__(self, folder: Path, name: str, scene: Scene, quality: int | None = None) -> str:
        """Return the file of a picture, which will be a JPEG of a quality, or of the usual one."""
        file = f"images/{name.split('-')[0][:4]}/{name}.jpg"
        self.wanted[folder / file] = scene, quality or QUALITY
        return file

    def paint(self, painter: Painter) -> None:
        """Paint everything that was noted, in two processes."""
        from tqdm import tqdm

        for parent in {path.parent for path in self.wanted}:
            parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(2) as pool:  # which notices a worker that dies
            done = pool.map(partial(_paint_file, painter), self.wanted.items(), chunksize=200)
            for _ in tqdm(done, total=len(self.wanted), desc="painting scenes", unit="picture", mininterval=1):
                pass


def _paint_file(painter: Painter, job: tuple[Path, tuple[Scene, int]]) -> None:
    path, (scene, quality) = job
    painter.paint(scene).save(path, quality=quality, subsampling=0)


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parent / "assets" / "sprites"
    parser.add_argument("--sprites", type=Path, default=default, help="cut-outs with alpha, named by their noun")
    parser.add_argument("--output", type=Path, required=True, help="folder that receives train/, seen/ and unseen/")
    parser.add_argument("--pairs", type=int, default=2000, help="picture-caption pairs for stage 1")
    parser.add_argument("--triplets", type=int, default=4000, help="triplets for stage 2")
    parser.add_argument("--edits", type=int, default=4, help="triplets on each reference picture")
    parser.add_argument("--references", type=int, default=40, help="references of each benchmark, 16 queries each")
    parser.add_argument("--unseen", type=int, default=UNSEEN, help="objects kept out of train/")
    parser.add_argument(
        "--open", type=float, default=0.0, metavar="SHARE",
        help="share of the references, 0 to 1, whose instructions leave the place open and which lie there under two "
        "names: several right answers, and twins",
    )  # fmt: skip
    parser.add_argument(
        "--sessions", type=int, default=0, metavar="N",
        help="references of sessions/, 16 sessions each (default 0: none is written)",
    )  # fmt: skip
    parser.add_argument(
        "--negatives", type=float, default=0.0, metavar="SHARE",
        help="share of the references of one or two things, 0 to 1, whose rows say what to avoid; also writes "
        "seen-negatives/ and unseen-negatives/, in which nothing else tells what is right",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of train/; the benchmarks are always the same")
    parser.add_argument(
        "--draw", type=int, default=0, help="of the benchmarks: 0 for the tests, 1 to choose settings on"
    )
    args = parser.parse_args()

    for name in ("pairs", "triplets", "edits", "references"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.sessions < 0:
        raise ConfigError(f"--sessions must be 0 or more, not {args.sessions}")
    for name in ("open", "negatives"):
        if not 0 <= getattr(args, name) <= 1:
            raise ConfigError(f"--{name} is a share from 0 to 1, not {getattr(args, name)}")
    if not args.sprites.is_dir():
        raise DataError(f"--sprites {args.sprites} is not a folder")
    painter, pictures = Painter(args.sprites), Pictures()
    if min(args.unseen, len(painter.nouns) - args.unseen) < MIN_NOUNS:
        raise DataError(
            f"{args.sprites} has {len(painter.nouns)} cut-outs (.png or .webp), of which --unseen takes {args.unseen}; "
            f"at least {MIN_NOUNS} must be on either side"
        )
    tests = benchmarks(painter.nouns, args.references, args.unseen, args.draw)
    forbidden = {s for test in tests.values() for r in test for s in (r.scene, *(e.result for e in r.edits))}
    choosing = negatives_benchmarks(painter.nouns, args.references, args.unseen, args.draw) if args.negatives else {}
    forbidden |= {scene for test in choosing.values() for r in test for scene in r.scenes}
    for name in ("train", *tests, *choosing):
        (args.output / name).mkdir(parents=True, exist_ok=True)
    drawn = f"-{args.draw}" if args.draw else ""
    for name, references in tests.items():
        write_benchmark(args.output / name, f"scenes-{name}{drawn}", references, pictures)
    for name, chosen in choosing.items():
        write_negatives(args.output / name, f"scenes-{name}{drawn}", chosen, pictures)
    seen, _ = split_nouns(painter.nouns, args.unseen)
    sizes = (args.pairs, args.triplets, args.edits)
    rng, shares = random.Random(args.seed), (args.open, args.negatives)
    write_training(args.output / "train", rng, seen, forbidden, sizes, pictures, *shares)
    if args.sessions:
        write_sessions(args.output / SESSIONS, f"scenes-sessions{drawn}", seen, args.sessions, args.draw, pictures)
    pictures.paint(painter)
    made = ", ".join(["train", *tests, *choosing, *([SESSIONS] if args.sessions else [])])
    print(f"{len(pictures.wanted):,} pictures in {args.output}/: {made}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
