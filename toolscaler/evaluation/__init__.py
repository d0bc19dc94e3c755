"""Numbers: a retriever and labelled queries in, metrics with intervals and paired tests out; and the baselines."""

from __future__ import annotations

from typing import Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> the module that defines it. Nothing is imported before it is asked for (PEP 562).
_PUBLIC: dict[str, str] = {
    "AgentEvaluation": "toolscaler.evaluation.agents",
    "AgentTask": "toolscaler.evaluation.agents",
    "BM25Retriever": "toolscaler.evaluation.baselines",
    "ComparedValue": "toolscaler.evaluation.comparison_table",
    "ComparisonTable": "toolscaler.evaluation.comparison_table",
    "EmbeddingRetriever": "toolscaler.evaluation.baselines",
    "EvaluationResult": "toolscaler.evaluation.retrieval",
    "GroupMetrics": "toolscaler.evaluation.breakdown",
    "LsaEncoder": "toolscaler.evaluation.baselines",
    "METRICS": "toolscaler.evaluation.metrics",
    "MetricValue": "toolscaler.evaluation.statistics",
    "PairedComparison": "toolscaler.evaluation.retrieval",
    "ReliabilityTable": "toolscaler.evaluation.calibration",
    "Retriever": "toolscaler.decoding",
    "RiskCoverageCurve": "toolscaler.evaluation.calibration",
    "ToolRetrievalEvaluator": "toolscaler.evaluation.retrieval",
    "bootstrap_intervals": "toolscaler.evaluation.statistics",
    "break_down": "toolscaler.evaluation.breakdown",
    "breakdown_tables": "toolscaler.evaluation.files",
    "calibrate_result": "toolscaler.evaluation.files",
    "cluster_bootstrap_interval": "toolscaler.evaluation.statistics",
    "compare_systems": "toolscaler.evaluation.comparison",
    "completeness_at_k": "toolscaler.evaluation.metrics",
    "evaluate_agent": "toolscaler.evaluation.agents",
    "expected_calibration_error": "toolscaler.evaluation.calibration",
    "group_by_category": "toolscaler.evaluation.breakdown",
    "group_by_number": "toolscaler.evaluation.breakdown",
    "group_by_seen": "toolscaler.evaluation.breakdown",
    "group_by_tag": "toolscaler.evaluation.breakdown",
    "hit_at_k": "toolscaler.evaluation.metrics",
    "holm_adjust": "toolscaler.evaluation.statistics",
    "mrr_at_k": "toolscaler.evaluation.metrics",
    "ndcg_at_k": "toolscaler.evaluation.metrics",
    "ndcg_toolgen_at_k": "toolscaler.evaluation.metrics",
    "paired_bootstrap_interval": "toolscaler.evaluation.statistics",
    "paired_randomization_test": "toolscaler.evaluation.statistics",
    "plot_reliability": "toolscaler.evaluation.calibration",
    "plot_risk_coverage": "toolscaler.evaluation.calibration",
    "precision_at_k": "toolscaler.evaluation.metrics",
    "read_trec_qrels": "toolscaler.evaluation.trec",
    "read_trec_run": "toolscaler.evaluation.trec",
    "recall_at_k": "toolscaler.evaluation.metrics",
    "reliability_table": "toolscaler.evaluation.calibration",
    "results_table": "toolscaler.evaluation.retrieval",
    "risk_coverage": "toolscaler.evaluation.calibration",
    "run_rankings": "toolscaler.evaluation.trec",
    "standard_groups": "toolscaler.evaluation.breakdown",
    "top_confidences": "toolscaler.evaluation.calibration",
    "trec_query_ids": "toolscaler.evaluation.trec",
    "write_evaluation": "toolscaler.evaluation.files",
    "write_trec_qrels": "toolscaler.evaluation.trec",
    "write_trec_run": "toolscaler.evaluation.trec",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
