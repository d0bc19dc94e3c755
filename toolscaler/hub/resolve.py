"""A folder, or a Hub repository with revision and subfolder, goes in; a folder on this machine comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from toolscaler._files import recover_folder
from toolscaler.errors import ArtifactError
from toolscaler.hub.manifest import MANIFEST_NAME, REPO_ID, ArtifactManifest, is_safe_name

#: Arguments that say where files are.
WHERE = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "force_download")


def find_artifact(source: str | Path, where: Mapping[str, Any], *, must: bool = False) -> Path | None:
    """Find an artefact and fetch its files.

    Args:
        source: Folder or repository id.
        where: Some of :data:`WHERE`.
        must: Where nothing was downloaded before and the Hub does not answer, say so; else that is ``None`` too, for
            a caller who may have an ordinary model there.

    Returns:
        Its folder on this machine; ``None`` where there is no manifest (an ordinary model, say).

    Raises:
        ArtifactError: The repository or revision does not exist, the Hub cannot be reached, or the manifest is damaged.
    """
    unknown = sorted(set(where) - set(WHERE))
    if unknown:
        raise ArtifactError(f"expected some of {', '.join(WHERE)}, got {', '.join(unknown)}")
    subfolder = where.get("subfolder") or ""
    folder = Path(source)
    recover_folder(folder)
    if folder.exists():
        inner = folder / subfolder
        return inner if (inner / MANIFEST_NAME).is_file() else None
    return _from_hub(str(source), subfolder, where, must)


def _from_hub(repo: str, subfolder: str, where: Mapping[str, Any], must: bool) -> Path | None:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HTTPError, LocalEntryNotFoundError

    if not REPO_ID.fullmatch(repo):
        raise ArtifactError("expected a folder or a repository id such as user/name, found neither", path=repo)
    if subfolder and not all(is_safe_name(part) for part in PurePosixPath(subfolder).parts):
        raise ArtifactError(f"subfolder: expected a folder inside the repository, got {subfolder!r:.200}", path=repo)
    options = {key: where[key] for key in WHERE if key not in ("revision", "subfolder") and where.get(key) is not None}
    try:
        manifest = hf_hub_download(
            repo, MANIFEST_NAME, subfolder=subfolder or None, revision=where.get("revision"), **options
        )
        folder = Path(manifest).parent
        # cache/models--user--name/snapshots/COMMIT/subfolder: the files must come from the commit of the manifest.
        commit = folder.parents[len(PurePosixPath(subfolder).parts) - 1].name if subfolder else folder.name
        prefix = f"{PurePosixPath(subfolder)}/" if subfolder else ""
        names = [prefix + name for name in ArtifactManifest.load(folder).files]
        # From here on it is an artefact: what is missing now is an error, and no reason to load it unchecked.
        must = True
        snapshot_download(repo, revision=commit, allow_patterns=[prefix + MANIFEST_NAME, *names], **options)
    except ArtifactError:
        raise
    except LocalEntryNotFoundError as error:
        if not must:
            return None
        why = "was not downloaded before" if where.get("local_files_only") or _offline() else "cannot be reached"
        raise ArtifactError(f"the artefact {why}: {_reason(error)}", path=repo) from error
    except EntryNotFoundError:
        return None  # snapshot_download fetches what is there; that of the manifest is compared with it later
    except (HTTPError, OSError, ValueError) as error:
        raise ArtifactError(
            f"expected a folder or a repository on the Hub, got neither: {_reason(error)}; check name, revision and "
            "token (huggingface-cli login or HF_TOKEN)",
            path=repo,
        ) from error
    return folder


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__
