"""Push: an artefact goes to the Hub as one commit, so that a reader finds the old one or the new one."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler.errors import ArtifactError, ConfigError, HubError, ToolscalerError
from toolscaler.hub.artifact import COMPRESSOR_FOLDER, Artifact
from toolscaler.hub.card import CardFacts, make_card
from toolscaler.hub.manifest import MANIFEST_NAME, REPO_ID, ArtifactManifest, is_safe_name
from toolscaler.hub.saving import CARD_NAME, save_artifact

if TYPE_CHECKING:
    from toolscaler.tokenization import ToolscalerTokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PushResult:
    """What a push made.

    Attributes:
        repo_id: The repository.
        commit: Hash of the commit.
        url: Where it can be seen.
        manifest: What was pushed.
    """

    repo_id: str
    commit: str
    url: str
    manifest: ArtifactManifest


def push_to_hub(
    model: Any,
    tokenizer: ToolscalerTokenizer,
    repo_id: str,
    *,
    card: CardFacts | str | None = None,
    license: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    statistics: Mapping[str, Any] | None = None,
    check: bool = True,
    subfolder: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    private: bool | None = None,
    commit_message: str | None = None,
    token: str | bool | None = None,
    **parts: Any,
) -> PushResult:
    """Publish a trained model with everything that belongs to it, in one commit.

    Args:
        model: As in :func:`toolscaler.hub.save_artifact`; an adapter needs ``base_model``.
        tokenizer: Its tokenizer.
        repo_id: ``user/name``; made if it does not exist.
        card: Facts for the card, or its text; default: what model and tokenizer say.
        license: Identifier for the default card, for example ``apache-2.0``.
        metrics: For the default card: ``EvaluationResult.to_dict()``, or a run's ``metrics.json``.
        statistics: For the default card: ``CodebookStatistics.to_dict()``.
        check: Of an adapter: fetch the base by its name and put the adapter on it before anything is pushed.
        subfolder: Folder in the repository; one repository may hold several artefacts.
        revision: Branch; made if it does not exist.
        create_pr: Open a pull request instead of writing to the branch.
        private: Make a new repository private.
        commit_message: Default: what was pushed.
        token: Hub token; default: that of ``hf auth login`` or ``HF_TOKEN``.
        **parts: ``documents``, ``compressor``, ``compressor_tokenizer``, ``protocol``, ``extras``,
            ``base_model``, ``base_revision``, ``max_shard_size`` of :func:`toolscaler.hub.save_artifact`.

    Returns:
        The commit.

    Raises:
        ConfigError: Something does not fit together; nothing was sent.
        ArtifactError: The adapter does not fit the base that it names; nothing was sent.
        HubError: The token was refused, the connection was lost, or somebody else pushed meanwhile. The repository
            then holds what it held before, or the whole new artefact.
    """
    adapted = hasattr(model, "peft_config")
    base = parts.get("base_model")
    if adapted and base is None:
        raise ConfigError("base_model", None, "the Hub id of the base, which others need to load the adapter")
    _check_target(repo_id, subfolder)
    if not isinstance(card, str):
        if card is None:
            card = CardFacts(
                repo_id=repo_id,
                kind="adapter" if adapted else "model",
                num_tools=len(tokenizer.tool_index),
                code_sizes=tokenizer.code_sizes,
                base_model=base,
                license=license,
                statistics=statistics,
                metrics=_as_run_metrics(metrics),
            )
        facts = dataclasses.replace(
            card,
            subfolder=subfolder,
            revision=revision,
            has_documents=parts.get("documents") is not None,
            has_compressor=parts.get("compressor") is not None,
        )
        card = make_card(facts)
    with tempfile.TemporaryDirectory(prefix="toolscaler-push-") as scratch:
        folder = Path(scratch) / "artifact"
        save_artifact(folder, model, tokenizer, card=card, **parts)
        if check and adapted:
            Artifact.from_pretrained(folder).load_model(tokenizer, token=token)
        return push_folder(
            folder,
            repo_id,
            subfolder=subfolder,
            revision=revision,
            create_pr=create_pr,
            private=private,
            commit_message=commit_message,
            token=token,
        )


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    private: bool | None = None,
    commit_message: str | None = None,
    token: str | bool | None = None,
) -> PushResult:
    """Publish an artefact that was saved before; the arguments are those of :func:`push_to_hub`.

    Files of the artefact that was there before and that the new one lacks are deleted in the same commit; files that
    no manifest lists stay.

    Raises:
        ArtifactError: The folder is not what its manifest says.
        HubError: See :func:`push_to_hub`.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    _check_target(repo_id, subfolder)
    root, prefix = Path(folder), f"{subfolder}/" if subfolder else ""
    manifest = ArtifactManifest.load(root)
    manifest.verify(root)
    names = [MANIFEST_NAME, *manifest.files, *([CARD_NAME] if (root / CARD_NAME).is_file() else [])]
    api = HfApi(token=token)
    with _hub_errors(repo_id):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        head = api.model_info(repo_id, revision=revision)
        present = {entry.rfilename for entry in head.siblings or ()}
        old = _listed_before(repo_id, head.sha, prefix, present, token)
        operations: list[Any] = [CommitOperationAdd(prefix + name, root / name) for name in names]
        operations += [CommitOperationDelete(name) for name in sorted((old & present) - {prefix + n for n in names})]
        kind = "adapter" if manifest.kind == "adapter" else "model"
        info = api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or f"toolscaler {kind}: {len(names)} files",
            revision=revision,
            create_pr=create_pr,
            parent_commit=None if create_pr else head.sha,
        )
        written = {entry.rfilename for entry in api.model_info(repo_id, revision=info.oid).siblings or ()}
    lost = sorted({prefix + name for name in names} - written)
    if lost:
        raise HubError(
            f"the commit lacks {', '.join(lost[:3])}; does a .gitignore of the repository name such files?",
            repo_id=repo_id,
        )
    return PushResult(repo_id, info.oid, info.commit_url, manifest)


def _check_target(repo_id: str, subfolder: str | None) -> None:
    if not isinstance(repo_id, str) or not REPO_ID.fullmatch(repo_id):
        raise ConfigError("repo_id", repo_id, "a repository such as user/name")
    if subfolder is not None and not (is_safe_name(subfolder) and "/" not in subfolder):
        raise ConfigError("subfolder", subfolder, "the name of one folder")
    if subfolder == COMPRESSOR_FOLDER:
        raise ConfigError("subfolder", subfolder, f"another name; {COMPRESSOR_FOLDER} is a part of an artefact")


def _listed_before(repo_id: str, commit: str, prefix: str, present: set[str], token: Any) -> set[str]:
    """Give the files that the manifest of the artefact there lists."""
    from huggingface_hub import hf_hub_download

    if prefix + MANIFEST_NAME not in present:
        return set()
    path = hf_hub_download(repo_id, prefix + MANIFEST_NAME, revision=commit, token=token)
    try:
        files = ArtifactManifest.load(Path(path).parent).files
    except ArtifactError as error:
        logger.warning("the manifest on the Hub cannot be read, so that no old file is deleted: %s", error)
        return set()
    return {prefix + name for name in files}


def _as_run_metrics(metrics: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Bring one evaluation result into the form of a run's file."""
    if metrics is None or "results" in metrics:
        return metrics
    return {**{key: metrics[key] for key in ("n", "seed", "confidence") if key in metrics}, "results": [metrics]}


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one error that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        yield
    except ToolscalerError:
        raise
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = _ADVICE.get(status or 0, "try again, or look at the message of the Hub")
        raise HubError(f"{advice} ({_first_lines(error)})", repo_id=repo_id, status=status) from error
    except OfflineModeIsEnabled as error:
        raise HubError("a push needs the network; unset HF_HUB_OFFLINE", repo_id=repo_id) from error
    except (HTTPError, OSError, RuntimeError) as error:  # an upload that breaks off is a RuntimeError of the client
        raise HubError(
            f"the connection was lost ({type(error).__name__}: {_first_lines(error)}); the repository holds what it "
            "held before, or the whole new artefact: push again",
            repo_id=repo_id,
        ) from error
    except ValueError as error:
        raise HubError(f"the Hub's client refused: {_first_lines(error)}", repo_id=repo_id) from error


_ADVICE = {
    401: "the token was refused or is missing; run `hf auth login` or set HF_TOKEN to one that may write",
    403: "the token may not write there; use one with the right to write to this repository",
    404: "there is no such repository or branch for this token",
    409: "the repository changed meanwhile; push again",
    412: "somebody else pushed meanwhile; look at their commit and push again",
    413: "a file is too large for the Hub; save with a smaller max_shard_size",
    429: "too many requests; wait a while and push again",
}


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300] or type(error).__name__
