"""Build a static web page that runs an exported student in the browser, from the files in student/browser.

    saldistill page page --model student.onnx
    python -m http.server --directory page        # then open http://localhost:8000

Node.js and npm fetch onnxruntime-web, the version that student/browser/package-lock.json pins, once per machine.
"""

import json
import logging
import shutil
import subprocess
from pathlib import Path

from distill.claims import claim
from distill.errors import RunError, UserError, shorten
from distill.file_cache import cache_folder
from distill.files import atomic_folder, temporary_folder
from distill.models.hub import is_hub_reference, open_repository
from distill.models.pretrained import DEFAULT_MODEL, pretrained_folder, pretrained_models
from distill.paths import require_file

log = logging.getLogger(__name__)

PAGE = ("index.html", "style.css", "page.js", "frames.js", "heat.js", "model.js", "cuts.js", "fit.js")
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
PACKAGE = "onnxruntime-web"

CHECK = """
import { readFileSync } from "node:fs";
const [script, model] = process.argv.slice(-2);
const { readMetadata } = await import(script);
try {
  readMetadata(new Uint8Array(readFileSync(model)), model);
} catch (error) {
  console.error(error.message);
  process.exit(2);
}
"""
"""Program that reads a model's metadata as the page does."""


def build_page(out: str | Path, model: str | Path = DEFAULT_MODEL) -> Path:
    """Write the page, with an exported student in it; the folder appears when it is complete.

    Args:
        out: folder to create.
        model: .onnx file of a student that streams, the name of a pretrained one, or a repository of the Hugging
            Face Hub with such a file.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists, the model is not an exported student, or Node.js or npm is not installed.
        RunError: npm cannot fetch onnxruntime-web.
    """
    for program, package in (("node", "nodejs"), ("npm", "npm")):
        if shutil.which(program) is None:
            raise UserError(f"{program}: not installed; on Debian and Ubuntu: apt install {package}")
    file, sources = _file_of(model), pretrained_folder().parent / "browser"
    with claim(out, "the page"):
        _check(file, sources)
        runtime = _runtime(sources)
        with atomic_folder(out) as page:
            for each in [*(sources / name for name in PAGE), *(runtime / name for name in RUNTIME)]:
                shutil.copyfile(each, page / each.name)
            shutil.copyfile(file, page / "student.onnx")
    return Path(out)


def _file_of(model: str | Path) -> Path:
    """Return the .onnx file of a model."""
    if (record := pretrained_models().get(str(model))) is not None:
        return pretrained_folder() / record.onnx.name
    if is_hub_reference(model):
        return open_repository(model).onnx()
    file = Path(model)
    require_file(file, "an exported student")
    if not file.exists():
        raise UserError(f"{file}: no such file; expected a student written by `saldistill export`")
    return file


def _check(file: Path, sources: Path) -> None:
    """Refuse a file that the page could not run."""
    command = ["node", "--input-type=module", "-", str(sources / "model.js"), str(file.resolve())]
    done = subprocess.run(command, input=CHECK, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["Node.js failed"])[-1]
        raise UserError(f"{file}: {shorten(reason.removeprefix(f'{file.resolve()}: '))}")


def _runtime(sources: Path) -> Path:
    """Return the folder of onnxruntime-web's files: in a checkout where it was fetched, or in the user's cache."""
    version = json.loads((sources / "package.json").read_text(encoding="utf-8"))["dependencies"][PACKAGE]
    cached = cache_folder() / f"{PACKAGE}-{version}"
    for folder in (sources, cached):
        package = folder / "node_modules" / PACKAGE
        if (package / "package.json").is_file():
            found = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
            if found == version and all((package / "dist" / name).is_file() for name in RUNTIME):
                return package / "dist"
    log.info("downloading %s %s ...", PACKAGE, version)
    with temporary_folder(cached) as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(sources / name, folder / name)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["npm failed"])[0]
            raise RunError(f"npm could not download {PACKAGE} {version}: {shorten(reason)}")
        shutil.rmtree(cached, ignore_errors=True)  # of an interrupted download
        shutil.move(folder, cached)
    return cached / "node_modules" / PACKAGE / "dist"
