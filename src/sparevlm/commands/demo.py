"""``sparevlm demo``: the page, on this machine alone unless told otherwise."""

from __future__ import annotations

import argparse
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparevlm.commands.fields import add_set, read_set
from sparevlm.commands.terminal import progress, quiet

LOOPBACK = "127.0.0.1"


def add_demo(commands: Any) -> None:
    """Add the command."""
    demo = commands.add_parser(
        "demo",
        help="a web page on which to drag the budget and see what is kept",
        description="Serve a page on which to try methods and budgets side by side. It is served "
        "to this machine alone, and what is uploaded stays here and is deleted.",
        epilog="example: sparevlm demo --port 7860",
        allow_abbrev=False,
    )
    add = demo.add_argument
    add("--model", default="pocket", metavar="NAME", help="see 'sparevlm ask' (default: pocket)")
    add("--port", type=int, default=7860, metavar="P", help="to serve on (default: %(default)s)")
    add(
        "--host",
        default=LOOPBACK,
        metavar="ADDRESS",
        help="address to serve on; 0.0.0.0 lets others in (default: this machine alone)",
    )
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="of the model")
    add("--device", metavar="NAME", help="cpu, cuda, ... (default: an accelerator)")
    add_set(add)
    demo.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> str:
    if find_spec("gradio") is None:
        raise ValueError("demo needs Gradio: pip install 'sparevlm[demo]'")
    if not 0 <= args.port <= 65535:
        raise ValueError(f"--port {args.port}: give a port from 1 to 65535, or 0 for a free one")
    with tempfile.TemporaryDirectory(prefix="sparevlm-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when Gradio is imported, and gone at the end
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

        from sparevlm import hf
        from sparevlm.demo import page
        from sparevlm.demo.explorer import Explorer, check_fields
        from sparevlm.methods import list_methods

        fields = read_set(args.set, list_methods(inside=None))
        check_fields(fields)  # before anything is loaded

        with quiet():
            progress(f"loading {args.model}")
            model, processor = hf.load(args.model, dtype=args.dtype, device=args.device)
        drawn = Path(folder) / "drawn"
        drawn.mkdir()
        blocks = page.Page(Explorer(model, processor, fields=fields), drawn, args.model).build()
        try:
            _, url, _ = blocks.launch(
                server_name=args.host, server_port=args.port or None, share=False, quiet=True,
                prevent_thread_lock=True, max_file_size=page.MEGABYTES * 2**20, footer_links=[],
                allowed_paths=[str(drawn)], ssr_mode=False, mcp_server=False, run_history=False,
                **page.looks(),
            )  # fmt: skip
        except OSError as error:
            raise ValueError(f"port {args.port} cannot be served on: {error}") from None
        print(f"sparevlm demo: open {url} (Ctrl-C ends it)", flush=True)
        try:
            blocks.block_thread()
        finally:
            blocks.close(verbose=False)
    return ""
