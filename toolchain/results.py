"""What a run leaves for people and machines: `summary.json`, `records.jsonl`, `report.html`, from what its stages measured."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolchain.device.manifest import attach
from toolchain.device.profile import NodeTime
from toolchain.device.records import interval
from toolchain.device.records import records_of as of_bench
from toolchain.device.target import load_target
from toolchain.errors import AccuracyGateError
from toolchain.measurement.record import Record, append
from toolchain.pruning.depth import renamed
from toolchain.pruning.plan import PruningPlan
from toolchain.report.diagnose import OutputFacts, check_map, check_outputs, check_reached, output_facts
from toolchain.report.diagnose_latency import LayerTime, check_int8, check_latency, check_noise
from toolchain.report.findings import Finding, by_severity
from toolchain.report.html import write_report
from toolchain.report.layer_times import layer_times, summary_rows
from toolchain.report.variant import Variant
from toolchain.stage import read_json, tool_versions, write_json

DENSE, PRUNED, INT8 = "dense", "pruned", "pruned-int8"
FACT_IMAGES = 8


def variants_of(
    engines: Mapping[str, Path],
    bench: Mapping[str, Any],
    accuracy: Mapping[str, Any],
    sizes: Mapping[str, tuple[int, int]],
    refused: AccuracyGateError | None,
) -> list[Variant]:
    """One row an engine, dense first, the product last.

    Args:
        sizes: label -> (weights, multiply-adds).
    """
    rows = []
    for label, path in engines.items():
        timed, found = bench["engines"][label], accuracy[label]
        p50, ratio = timed["latency_ms"]["p50"], timed["speedup"]
        rows.append(
            Variant(
                label=label,
                size_bytes=path.stat().st_size,
                params=sizes[label][0],
                gmacs=sizes[label][1] / 1e9,
                map50=found["map50"],
                map50_95=found["map50_95"],
                latency_ms=p50["value"],
                latency_interval_ms=interval(p50),
                speedup=1.0 if ratio is None else ratio["value"],
                speedup_interval=None if ratio is None else interval(ratio),
                per_class={c["name"]: c["map50_95"] for c in found["per_class"] if c["map50_95"] is not None},
            )
        )
    if refused is not None:
        why = dict.fromkeys(("size_bytes", "params", "gmacs", "map50", "map50_95", "latency_ms"), "refused by the accuracy gate")
        rows.append(Variant(label=INT8, why=why))
    return rows


def conv_layers(dense: Any, pruned: Any, plan: PruningPlan) -> list[dict[str, Any]]:
    """Outputs of every convolution before and after, by its name in the dense network; the reason where a layer was not cut.

    `now` is its name in the pruned one, None (and 0 outputs) where its Bottleneck is gone.
    """
    frozen = {layer: group.frozen for group in plan.groups for layer in group.layers}
    owner = {layer.replace(".cv0.", ".cv1."): group.name for group in plan.groups for layer in group.layers}
    after = dict(pruned.named_modules())
    rows = []
    for name, module in dense.named_modules():
        if not hasattr(module, "out_channels") or ".dfl." in name:
            continue
        now = renamed(name, plan.gone)
        rows.append({
            "name": name, "now": now, "dense": module.out_channels, "kept": after[now].out_channels if now else 0,
            "group": owner.get(name), "reason": frozen.get(name),
        })  # fmt: skip
    return rows


def profiled(profile: Mapping[str, Any], layers: list[dict[str, Any]], align: int, imgsz: int) -> list[LayerTime]:
    """The profiles of the dense and the pruned engine, layer by layer; empty without them."""
    if not profile:
        return []
    dense, pruned = ([NodeTime.from_json(row) for row in profile[label]] for label in (DENSE, PRUNED))
    return layer_times(dense, pruned, layers, align, imgsz)


def alive(dense: OutputFacts, cut: OutputFacts, tuned: OutputFacts) -> list[Finding]:
    """Whether the final network speaks; a cut that said nothing and was repaired by training is worth knowing, no problem."""
    findings = check_outputs(dense, tuned)
    if any(finding.severity != "ok" for finding in findings):
        return findings
    silent = [finding for finding in check_outputs(dense, cut) if finding.severity != "ok"]
    return findings + [
        replace(f, severity="ok", title=f"Before fine-tuning: {f.title}; training repaired it", next="") for f in silent
    ]


def diagnose(
    plan: PruningPlan,
    dense: Any,
    cut: Any,
    tuned: Any,
    images: Any,
    accuracy: Mapping[str, Any],
    bench: Mapping[str, Any],
    variants: list[Variant],
    max_drop: float,
    profile: Sequence[LayerTime] = (),
    budget: bool = False,
) -> list[Finding]:
    """The user's checklist over what was measured."""
    import torch

    with torch.no_grad():
        facts = [output_facts([net(images)[0].numpy()]) for net in (dense.eval(), cut.eval(), tuned.eval())]
    findings = alive(*facts)
    steps = [
        ("dense", accuracy[DENSE]["map50_95"]),
        ("cut", accuracy["cut"]["map50_95"]),
        ("tuned", accuracy[PRUNED]["map50_95"]),
    ]
    if INT8 in accuracy:
        steps.append(("int8", accuracy[INT8]["map50_95"]))
    findings += check_map(steps)  # type: ignore[arg-type]
    if not budget:  # a budget is met in latency, whatever share of the channels that takes
        what, reached = ("multiply-adds", plan.reached.macs) if plan.strategy == "flops" else ("channels", plan.reached.channels)
        findings += check_reached(f"share of {what}", 1 - plan.asked_ratio, 1 - reached, alignment=plan.align)
    by_label = {row.label: row for row in variants}
    timed = by_label[PRUNED]
    if timed.speedup is not None:
        findings += check_latency(1 - plan.reached.macs, 1 / timed.speedup, profile)
    int8 = by_label.get(INT8)
    if int8 is not None and int8.latency_ms is not None:
        findings += check_int8(timed.latency_ms, int8.latency_ms, timed.map50_95, int8.map50_95, max_drop)
    control = bench.get("control")
    findings += check_noise(interval(control) if control else None)
    return by_severity(findings)


def records_of(
    engines: Mapping[str, Path], bench: Mapping[str, Any], accuracy: Mapping[str, Any], data: str
) -> dict[str, list[Record]]:
    """Latency, accuracy and size of every engine, each with what makes it true."""
    rows = {label: {**bench["engines"][label], "accuracy": {**accuracy[label], "data_sha256": data}} for label in engines}
    return {label: of_bench({**bench, "engines": rows}, label, folder="stages/bench/") for label in engines}


def keep_records(out: Path, engines: Mapping[str, Path], records: Mapping[str, list[Record]]) -> None:
    """All in `records.jsonl`, a file made anew; those that may be used also in the bundle of their engine."""
    path = out / "records.jsonl"
    path.unlink(missing_ok=True)
    for label, some in records.items():
        for record in some:
            append(path, record)
        attach(engines[label].parent, [record for record in some if record.valid and record.value is not None])


def bench_part(bench: Mapping[str, Any], engines: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """The benchmark as the report reads it, with every sample inline: the page stands alone."""
    first = bench["engines"][DENSE]
    rows = []
    for label in engines:
        rounds = read_json(folder / bench["engines"][label]["samples"])["rounds"]
        samples_ms = [value for entry in rounds for value in entry["latency_ms"]]
        engine = bench["engines"][label]
        rows.append({"label": label, "latency_ms": engine["latency_ms"], "samples_ms": samples_ms, "sha256": engine["sha256"]})
    return {
        "device": bench["device"], "valid": bench["valid"], "reasons": list(bench["reasons"]), "control": bench["control"],
        "threads": bench["settings"]["threads"], "provider": first["provider"], "runtime_version": first["runtime_version"],
        "state_before": bench["state_before"], "state_after": bench["state_after"], "rounds": bench["rounds"], "engines": rows,
    }  # fmt: skip


def write_results(
    job: Any,
    plan: PruningPlan,
    model: Path,
    engines: Mapping[str, Path],
    bench: Mapping[str, Any],
    accuracy: Mapping[str, Any],
    refused: AccuracyGateError | None,
    profile: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `summary.json`, `records.jsonl` and `report.html` into the run folder; returns the summary."""
    from toolchain.pruning.prune import proof_images
    from toolchain.yolo.checkpoint import load_model
    from toolchain.yolo.dataset import load_dataset

    config = job.config
    dense, pruned, cut = load_model(config.model), load_model(model), load_model(job.cut_model)
    dataset = load_dataset(config.data, class_names=dense.names)
    weights = {net: sum(p.numel() for p in loaded.module.parameters()) for net, loaded in (("d", dense), ("p", pruned))}
    macs = job.macs
    sizes = {DENSE: (weights["d"], macs[0]), PRUNED: (weights["p"], macs[1]), INT8: (weights["p"], macs[1])}
    rows = variants_of(engines, bench, accuracy, sizes, refused)
    layers = conv_layers(dense.module, pruned.module, plan)
    times = profiled(profile, layers, load_target(config.target).channel_alignment, config.imgsz)
    findings = diagnose(
        plan,
        dense.module,
        cut.module,
        pruned.module,
        proof_images(dataset, config.imgsz),
        accuracy,
        bench,
        rows,
        config.int8.max_drop,
        times,
        budget=bool(config.budget),
    )
    stages = {stage.name: stage for stage in job.done}
    tune, int8 = stages.get("tune"), stages.get("int8")
    pages = [stage / "select.html" for stage in job.done if stage.name.startswith("cut")]
    shared = len(set(dataset.images(config.split)) & set(dataset.images("train"))) if "train" in dataset.splits else None
    summary = {
        "title": f"{config.model.name} on {config.target}",
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": job.command,
        "model": {"source": str(config.model), "sha256": dense.sha256, "names": dense.names, "imgsz": config.imgsz},
        "data": {
            "yaml": str(config.data),
            "sha256": dataset.sha256,
            "split": config.split,
            "images": len(dataset.images(config.split)),
            "shared_with_train": shared,
        },
        "variants": [row.to_dict() for row in rows],
        "layers": layers,
        "prune": {
            "criterion": plan.criterion,
            "strategy": plan.strategy,
            "asked": ", ".join(config.budget) if config.budget else {"pruned_ratio": plan.asked_ratio},
            "pages": [str(page.relative_to(config.out)) for page in pages if page.exists()],
            "alignment": plan.align,
            "reached": {f"{key}_ratio": 1 - getattr(plan.reached, key) for key in ("macs", "params", "channels")},
        },
        "training": None
        if tune is None
        else {
            "epochs": tune.result["epochs"],
            "best_epoch": tune.result["best_epoch"],
            "curve": [{key: point[key] for key in ("epoch", "map50_95", "loss")} for point in tune.result["curve"]],
        },
        "sensitivity": None
        if "sensitivity" not in stages
        else [
            {"group": row["group"], "kept_ratio": row["kept_ratio"], "drop": row["map_drop"]}
            for row in stages["sensitivity"].result["rows"]
        ],
        "stages": [{"name": s.name, "duration_s": s.duration_s, "reused": s.reused} for s in job.done],
        "bench": bench_part(bench, engines, job.stages.root / "bench"),
        "profile": summary_rows(times),
        "int8": None
        if int8 is None
        else {
            "recipe": int8.result["recipe"],
            "images": int8.result["images"],
            "float_map": int8.result["float"]["map50_95"],
            "int8_map": int8.result["int8"]["map50_95"],
            "max_drop": config.int8.max_drop,
        },
        "diagnosis": [finding.to_dict() for finding in findings],
        "versions": tool_versions(),
    }
    write_json(config.out / "summary.json", summary)
    keep_records(config.out, engines, records_of(engines, bench, accuracy, dataset.sha256))
    write_report(summary, config.out / "report.html")
    return summary
