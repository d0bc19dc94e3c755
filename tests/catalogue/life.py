"""A catalogue's life through the real Hub client: ``life.py ARTEFACT FOLDER``. Prints a report as JSON.

The client reads the Hub's address when it is imported, hence a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hub"))
from loopback import Hub

HERE = Path(__file__).resolve().parent


def main() -> None:
    source, work = Path(sys.argv[1]), Path(sys.argv[2])
    with Hub() as hub:
        os.environ.update(hub.environment(work / "home"))
        import importlib.util

        from toolscaler.catalogue import ToolCatalogue
        from toolscaler.errors import ToolscalerError
        from toolscaler.hub import Artifact, push_folder

        spec = importlib.util.spec_from_file_location("catalogue_parts", HERE / "catalogue_parts.py")
        parts = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(parts)
        push_folder(source, "me/tools")
        cached = Artifact.from_pretrained("me/tools").folder
        try:
            ToolCatalogue.open(cached)
            refused = ""
        except ToolscalerError as error:
            refused = str(error)
        mine = ToolCatalogue.pull("me/tools", work / "mine")
        mine.add(parts.extra_documents(2))  # by the compressor that came along
        mine.remove(["units/count_words"])
        push_folder(work / "mine", "me/tools", commit_message="two more, one less")
        theirs = ToolCatalogue.pull("me/tools", work / "theirs", force_download=True)
        theirs.rollback(1)
        push_folder(work / "theirs", "me/tools")
        last = Artifact.from_pretrained("me/tools", force_download=True)
        report = {
            "refused": refused,
            "mine": len(mine),
            "theirs": len(theirs),
            "verbs": [entry.verb for entry in theirs.log],
            "same_log": theirs.log[:3] == mine.log[:],
            "last": len(last.load_tokenizer().tool_index),
            "documents": len(last.documents()),
        }
    print("REPORT " + json.dumps(report))


if __name__ == "__main__":
    main()
