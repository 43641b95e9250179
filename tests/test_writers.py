"""Every place that writes files, read from the syntax trees: where the names of its files come from."""

import ast
from collections import defaultdict
from collections.abc import Iterator

from helpers.places import REPOSITORY

PRIMITIVES = {
    *("atomic_path", "atomic_folder", "temporary_folder", "put_in_place", "clear_leftovers"),
    *("write_text", "write_json", "write_new", "write_bytes", "touch", "mkdir", "makedirs"),
    *("claim", "lock", "mkdtemp", "mkstemp", "TemporaryDirectory", "NamedTemporaryFile", "TemporaryFile"),
    *("link", "symlink", "symlink_to", "hardlink_to", "rename", "unlink", "rmdir", "rmtree", "removedirs"),
    *("copyfile", "copy2", "copytree", "move", "chmod", "truncate", "ftruncate", "pwrite"),
    *(
        "save",
        "save_file",
        "save_tensors",
        "save_model",
        "save_published",
        "save_sealed",
        "savez",
        "savetxt",
        "tofile",
    ),
    *("VideoWriter", "MapVideoWriter", "write_map_video", "write_report", "SummaryWriter"),
}
"""Names of functions and methods that create, change or remove files."""

FULL_NAMES = {"os.remove", "shutil.copy"}
"""Those whose last part is also a method of lists or arrays."""

PRIMITIVE = "distill.files, distill.claims: writes exactly the path that it is given"
GIVEN = "the whole path is given by the command line, the config's `out` or the caller"
FIXED = "fixed names and numbers in a folder that is given"
TEMPORARY = "fixed names in a temporary folder of the system"
NOTHING = "no file, or one that another function has opened"

WRITERS = {
    "distill.benchmark.data.benchmark_data": TEMPORARY,
    "distill.benchmark.data.extract": TEMPORARY,
    "distill.benchmark.gpu_report._run": FIXED,
    "distill.benchmark.gpu_report.measure_part": FIXED,
    "distill.benchmark.gpu_report.report": FIXED,
    "distill.benchmark.gpu_report.run_part": FIXED,
    "distill.benchmark.gpu_training._filling": TEMPORARY,
    "distill.benchmark.gpu_training.students": TEMPORARY,
    "distill.benchmark.gpu_wheels.collect": GIVEN,
    "distill.benchmark.kernels.profile_kernels": TEMPORARY,
    "distill.benchmark.models.benchmark_models": TEMPORARY,
    "distill.benchmark.onnx_files.benchmark_layers": TEMPORARY,
    "distill.benchmark.onnx_files.operator_times": TEMPORARY,
    "distill.benchmark.prediction.benchmark_prediction": TEMPORARY,
    "distill.benchmark.prediction.memory_work.predict": TEMPORARY,
    "distill.benchmark.prediction.plain_pass": TEMPORARY,
    "distill.benchmark.rows.Table.save": GIVEN,
    "distill.benchmark.rows.Tables.save": GIVEN,
    "distill.benchmark.targets._config": TEMPORARY,
    "distill.benchmark.targets.benchmark_targets": TEMPORARY,
    "distill.benchmark.targets.make_large_store": TEMPORARY,
    "distill.calibration.calibrate._write": GIVEN,
    "distill.calibration.calibrate.calibrate": GIVEN,
    "distill.calibration.graph.save_calibrated": GIVEN,
    "distill.calibration.graph.save_log_variant": TEMPORARY,
    "distill.calibration.study._compute": FIXED,
    "distill.calibration.study.run_study": FIXED,
    "distill.claims.claim": PRIMITIVE,
    "distill.claims.lock": PRIMITIVE,
    "distill.cli.benchmark._run": GIVEN,
    "distill.cli.configs._run_copy": GIVEN,
    "distill.cli.evaluate._run": FIXED,
    "distill.cli.evaluate.evaluate_models": "data: distill.cli.evaluate.score_folders",
    "distill.cli.export._run_quantize": GIVEN,
    "distill.cli.export.quantize_and_compare": GIVEN,
    "distill.cli.main.main": NOTHING,
    "distill.cli.models.convert_weights": GIVEN,
    "distill.cli.models.publish_weights": GIVEN,
    "distill.cli.predict.predict_one": GIVEN,
    "distill.cli.reframe.reframe_data": "data: distill.cli.reframe.reframe_data",
    "distill.cli.reframe.reframe_video": GIVEN,
    "distill.data.gaze_table.import_gaze": "data: distill.data.gaze_table.import_gaze",
    "distill.data.map_files.MapVideoWriter.__enter__": GIVEN,
    "distill.data.map_files.write_map_video": GIVEN,
    "distill.data.video.guard.serve": NOTHING,
    "distill.data.video.probe_cache.ProbeCache.save": FIXED,
    "distill.data.video.probe_cache.inspect_all": FIXED,
    "distill.data.video.writer.PictureWriter.__enter__": GIVEN,
    "distill.data.video.writer.PictureWriter.write": GIVEN,
    "distill.data.video.writer.VideoWriter.__enter__": GIVEN,
    "distill.demo.FinishedSteps.remove_from": "data: distill.demo.FinishedSteps.remove_from",
    "distill.demo.FinishedSteps.write": FIXED,
    "distill.demo.compare_sources": FIXED,
    "distill.demo.export_and_run": FIXED,
    "distill.demo.write_summary": FIXED,
    "distill.runtimes.export.export": GIVEN,
    "distill.runtimes.export.staging_folder": GIVEN,
    "distill.runtimes.onnx_graph.save_sealed": GIVEN,
    "distill.runtimes.onnx_graph.write": GIVEN,
    "distill.runtimes.openvino_runtime._compile": TEMPORARY,
    "distill.deploy.browser_page._runtime": FIXED,
    "distill.deploy.browser_page.build_page": GIVEN,
    "distill.deploy.export_format.export_format": GIVEN,
    "distill.deploy.formats.converter_log.captured_output": NOTHING,
    "distill.deploy.formats.executorch.convert": GIVEN,
    "distill.deploy.formats.format.write_metadata": GIVEN,
    "distill.deploy.formats.litert.convert": FIXED,
    "distill.deploy.formats.mnn.convert": FIXED,
    "distill.deploy.formats.ncnn._keep_only": FIXED,
    "distill.deploy.formats.ncnn.convert": FIXED,
    "distill.deploy.formats.openvino_ir._keep_state": NOTHING,
    "distill.deploy.formats.openvino_ir.convert": GIVEN,
    "distill.deploy.golden_vectors.write_kit": FIXED,
    "distill.deploy.int8.Int8Graph.__init__": TEMPORARY,
    "distill.deploy.quantize.Trial.agreement": TEMPORARY,
    "distill.deploy.quantize._write_quantized": GIVEN,
    "distill.deploy.quantize.quantize": GIVEN,
    "distill.deploy.quantize.quantize_files": GIVEN,
    "distill.evaluation.scores.Comparison.save": GIVEN,
    "distill.evaluation.scores.Scores.save": FIXED,
    "distill.evaluation.scores._write_csv": FIXED,
    "distill.evaluation.submission._record": GIVEN,
    "distill.evaluation.submission._write_pictures": "data: distill.evaluation.submission._places",
    "distill.evaluation.submission._write_video": "data: distill.evaluation.submission._places",
    "distill.experiment.make_store": "data: distill.experiment.Experiment._names_exist",
    "distill.experiment.write_results": FIXED,
    "distill.experiment.results_of.scored": "data: distill.experiment.results_of",
    "distill.files._rename_to_new": PRIMITIVE,
    "distill.files.atomic_folder": PRIMITIVE,
    "distill.files.atomic_path": PRIMITIVE,
    "distill.files.clear_leftovers": PRIMITIVE,
    "distill.files.put_in_place": PRIMITIVE,
    "distill.files.temporary_folder": PRIMITIVE,
    "distill.files.write_json": PRIMITIVE,
    "distill.files.write_new": PRIMITIVE,
    "distill.files.write_text": PRIMITIVE,
    "distill.leaderboard.cost.measure_costs": TEMPORARY,
    "distill.leaderboard.leaderboard.make_leaderboard": GIVEN,
    "distill.leaderboard.leaderboard.write_files": FIXED,
    "distill.leaderboard.quality._score": "data: distill.leaderboard.quality.score_all",
    "distill.locks.lock_file": NOTHING,
    "distill.data.remote_data._fetch_into": "data: distill.data.remote_data._fetch_into",
    "distill.data.remote_data._make_tree": "data: distill.data.remote_data._make_tree",
    "distill.file_cache.FileCache._fetch": FIXED,
    "distill.file_cache.FileCache._make_room": FIXED,
    "distill.file_cache.FileCache.get": FIXED,
    "distill.file_cache._remove": FIXED,
    "distill.remote._make_parents": GIVEN,
    "distill.targets.ray_cluster.connected": NOTHING,
    "distill.targets.shard_sinks.AddressSink.folder": TEMPORARY,
    "distill.targets.transfer.pull_store": FIXED,
    "distill.targets.transfer.pull_store.copy": FIXED,
    "distill.deploy.half_storage.store_halves": GIVEN,
    "distill.inference.folders.predict_folder": GIVEN,
    "distill.inference.outputs.Table.save": "data: distill.inference.folders.predict_folder",
    "distill.inference.outputs._folder": "data: distill.inference.folders.predict_folder",
    "distill.inference.outputs._merged_folder": "data: distill.inference.folders.predict_folder",
    "distill.inference.outputs.map_sink": "data: distill.inference.folders.predict_folder",
    "distill.inference.outputs.map_sink.write": FIXED,
    "distill.inference.outputs.overlay_sink": "data: distill.inference.folders.predict_folder",
    "distill.inference.predict.predict": GIVEN,
    "distill.inference.predict.write_prediction": "data: distill.inference.folders.predict_folder",
    "distill.inference.reframe.write_crop": "data: distill.cli.reframe.reframe_data",
    "distill.inference.shared_work.check_record": GIVEN,
    "distill.inference.shared_work.process_missing.attempt": "data: distill.inference.folders.predict_folder",
    "distill.models.onnx.seal": GIVEN,
    "distill.models.references.save_published": GIVEN,
    "distill.models.tensor_files._sort_metadata": NOTHING,
    "distill.models.tensor_files.save_tensors": GIVEN,
    "distill.models.training_hashes.write_training_hashes": FIXED,
    "distill.models.weight_files.save_model": GIVEN,
    "distill.release.hub_folder.write_config": GIVEN,
    "distill.release.hub_folder.write_graph": GIVEN,
    "distill.release.hub_folder.write_hub_folder": FIXED,
    "distill.release.push.push": GIVEN,
    "distill.release.ship.quantize_if_good": GIVEN,
    "distill.release.ship.ship": "data: distill.release.ship.ship",
    "distill.release.ship.update": FIXED,
    "distill.release.ship.write_onnx": GIVEN,
    "distill.release.ship.write_weights": GIVEN,
    "distill.reports.demo.write_demo_report": FIXED,
    "distill.reports.page.jpeg": NOTHING,
    "distill.reports.page.write_report": GIVEN,
    "distill.reports.peaks.plot_peaks": GIVEN,
    "distill.reports.scores.report_scores": GIVEN,
    "distill.runtimes.graph_cache._export": FIXED,
    "distill.runtimes.graph_cache._remove_old": FIXED,
    "distill.runtimes.graph_cache.cached_graph": FIXED,
    "distill.targets.build._open_or_create": TEMPORARY,
    "distill.targets.exporter._write_pngs": "data: distill.targets.exporter.export_maps",
    "distill.targets.exporter.export_maps": "data: distill.targets.exporter.export_maps",
    "distill.targets.importer._write_import": GIVEN,
    "distill.targets.importer.import_maps": GIVEN,
    "distill.targets.store.TargetStore.create": FIXED,
    "distill.targets.store.TargetStore.claim_shard": FIXED,
    "distill.targets.writer.ShardWriter.append": FIXED,
    "distill.targets.writer.ShardWriter.claim": FIXED,
    "distill.targets.writer.ShardWriter.seal": FIXED,
    "distill.targets.writer._write": FIXED,
    "distill.training.checkpoint.save_checkpoint": FIXED,
    "distill.training.config.save_config": GIVEN,
    "distill.training.gate_table.GateTable.save": "a hash in the cache folder",
    "distill.training.gate_table.decide_gates": "a hash in the cache folder",
    "distill.training.run_folder.claim_run": GIVEN,
    "distill.training.run_folder.keep_best": FIXED,
    "distill.training.step_log.StepLog._write": FIXED,
    "distill.training.step_log.keep_until": FIXED,
    "distill.training.tracker_services.MLflow.start": FIXED,
    "distill.training.trackers.Trackers._start": FIXED,
    "distill.training.train.Loop.run": FIXED,
    "distill.training.train.open_folder": GIVEN,
    "distill.training.train.train": FIXED,
    "student.edge.Table.write": GIVEN,
    "student.edge.Writer.__init__": GIVEN,
    "student.edge._run.show": FIXED,
}
"""Function -> where the names of the files come from that it writes; after "data: ", the function that passes names
from a store, a file or a folder scan through `path_inside`."""


def calls_of(package: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in a package, with the module and the qualified name of the function that it is in."""

    def visit(node: ast.AST, name: str) -> Iterator[tuple[str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield name, child
            inside = name
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inside = f"{name}.{child.name}"
            yield from visit(child, inside)

    for path in sorted((REPOSITORY / package).rglob("*.py")):
        module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        yield from visit(ast.parse(path.read_text(encoding="utf-8")), module)


def writes(call: ast.Call) -> str | None:
    """Return the primitive that a call writes with; None if it writes no file."""
    text = ast.unparse(call.func)
    name = text.rsplit(".", 1)[-1]
    if name in PRIMITIVES or text in FULL_NAMES:
        return name
    if name == "replace" and len(call.args) == 1 and not call.keywords:
        return name  # of a path; that of a text has two arguments
    if name in ("open", "fdopen"):
        given = [ast.unparse(each) for each in [*call.args, *(keyword.value for keyword in call.keywords)]]
        if any(mode in ("'w'", "'wb'", "'a'", "'ab'", "'x'", "'xb'", "'r+'", "'r+b'") for mode in given):
            return name
        if any("O_CREAT" in each or "O_WRONLY" in each or "O_RDWR" in each for each in given):
            return name
    return None


def writers() -> dict[str, set[str]]:
    """Return the functions of the toolkit that write files, each with the primitives that it calls."""
    found: dict[str, set[str]] = defaultdict(set)
    for package in ("distill", "teacher", "student"):
        for function, call in calls_of(package):
            if primitive := writes(call):
                found[function].add(primitive)
    return found


def test_every_writer_is_listed_with_the_origin_of_its_names() -> None:
    found = writers()
    new = {name: primitives for name, primitives in found.items() if name not in WRITERS}
    assert not new, f"new writers: decide where the names of their files come from and list them: {new}"
    assert not WRITERS.keys() - found.keys(), "these functions no longer write files"


def test_names_from_data_pass_through_path_inside() -> None:
    checking = {
        function
        for function, call in calls_of("distill")
        if ast.unparse(call.func).rsplit(".", 1)[-1] == "path_inside"
    }
    named = {origin.removeprefix("data: ") for origin in WRITERS.values() if origin.startswith("data: ")}
    assert not named - checking


def test_primitives_are_found_in_a_small_program() -> None:
    program = """
def f(path, text):
    path.replace(other)
    text.replace("a", "b")
    open(path, "w")
    open(path)
    path.open("rb")
    os.open(path, os.O_RDONLY)
    os.open(path, os.O_RDWR | os.O_CREAT)
    path.with_suffix(".x").touch()
    values.remove(1)
    array.copy()
    os.remove(path)
"""
    calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    assert sorted(ast.unparse(call) for call in calls if writes(call)) == [
        "open(path, 'w')",
        "os.open(path, os.O_RDWR | os.O_CREAT)",
        "os.remove(path)",
        "path.replace(other)",
        "path.with_suffix('.x').touch()",
    ]
