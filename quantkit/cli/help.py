"""What --help shows: options in sections, examples at the end."""

from __future__ import annotations

import functools

import click

HELP = "help"
SECTIONS = {
    "Samples": ("data", "synthetic", "labels", "preprocess", "samples", "batch_size", "seed", "strict"),
    "Quantization": ("method", "effort", "keep_fp32", "keep_int8", "reference", "table_in", "table_out", "partial"),
    "Accuracy goal": ("max_drop", "min_agreement", "min_sqnr", "time_budget"),
    "Measuring": ("seconds", "batch", "batches", "shapes", "against", "streams", "per_layer"),
    "Output": ("output", "format_", "report", "json_path", "trace", "force"),
    "Machine": ("threads", "isa"),
    "Messages": ("log_json", "quiet", "verbose", HELP),
}
"""Section -> parameters, both in the order of the help. A parameter of no section stands under "Options"."""

EXAMPLES = {
    "convert": ["quantkit convert model.onnx", "quantkit convert model.onnx --keep-fp32 'head.*'"],
    "calibrate": [
        "quantkit calibrate model.converted.onnx --data images/ --preprocess imagenet",
        "quantkit calibrate model.converted.onnx --data calib.npz --method entropy --samples 200",
    ],
    "quantize": [
        "quantkit quantize model.onnx --data images/ --preprocess imagenet",
        "quantkit quantize model.onnx --data images/ --labels labels.csv --max-drop 0.5",
        "quantkit quantize model.onnx --data my_reader:batches --effort best",
    ],
    "run": [
        "quantkit run model.int8.onnx --input images/ -o outputs.npz",
        "quantkit run model.onnx --input batch.npy --batch-size 8",
    ],
    "compare": [
        "quantkit compare model.onnx model.int8.onnx --data validation/ --report report.html",
        "quantkit compare model.onnx model.int8.onnx --data validation/ --against onnxruntime --json result.json",
    ],
    "bench": [
        "quantkit bench model.onnx model.int8.onnx --against onnxruntime",
        "quantkit bench model.int8.onnx --streams 1,2,4 --batches 1,8",
        "quantkit bench model.int8.onnx --per-layer --trace trace.json",
    ],
    "inspect": ["quantkit inspect model.int8.onnx", "quantkit inspect model.int8.onnx --isa avx2 --json nodes.json"],
    "export": [
        "quantkit export model.int8.onnx --format qdq",
        "quantkit export model.int8.onnx --format qoperator -o model.qop.onnx",
        "quantkit export model.int8.onnx --fusable -o model.fast.onnx",
    ],
    "doctor": ["quantkit doctor", "quantkit doctor --json machine.json"],
    "demo": ["quantkit demo", "quantkit demo try-it --force"],
    "completion": [
        "quantkit completion bash >> ~/.bashrc",
        "quantkit completion zsh >> ~/.zshrc",
        "quantkit completion fish >> ~/.config/fish/completions/quantkit.fish",
    ],
}
"""Shown at the end of each command's help and in docs/cli.md."""

START = """\b
Start here:
  quantkit demo                                                            try it: needs nothing else
  quantkit quantize model.onnx --data images/ --preprocess imagenet        writes model.int8.onnx
  quantkit compare model.onnx model.int8.onnx --data validation/           what it costs, what it gains

`quantkit COMMAND --help` explains a command and shows examples."""


COLUMN = 30
"""Where click lets help texts begin at most; all sections then begin theirs alike."""


class SectionedCommand(click.Command):
    """A command whose help lists options in SECTIONS and EXAMPLES after them."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        options = [p for p in self.get_params(context) if isinstance(p, click.Option)]
        records = {
            HELP if "--help" in p.opts else p.name: record for p in options if (record := p.get_help_record(context))
        }
        width = min(COLUMN, max(len(names) for names, _ in records.values()))
        placed = {name for names in SECTIONS.values() for name in names}
        sections = {"Options": [name for name in records if name not in placed], **SECTIONS}
        for title, names in sections.items():
            rows = [(f"{records[name][0]:{width}}", records[name][1]) for name in names if name in records]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for line in EXAMPLES[self.name or ""]:
                formatter.write_text("\b\n" + line)


command = functools.partial(click.command, cls=SectionedCommand)
"""`click.command` for the commands of quantkit."""
