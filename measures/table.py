"""The table of metrics: everything that is measured of a trial, of a pair of trials or of all trials together.

Results files, summary.csv, the report, the figures and REPRODUCIBILITY_METRICS_GUIDE.md go through these rows; the
arithmetic is in metrics.py. A module of its own, since who reads results needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One measured quantity, and how it is called wherever it is shown."""

    key: str  # in the results file
    column: str  # in summary.csv: the mean over trials or pairs, or their median ("Median_…"); '': recorded, not shown
    label: str  # in tables and figures
    unit: str  # '' for a pure number
    better: str  # 'lower', 'higher', or '' where neither is
    of: str  # 'pair', 'trial', or 'activation': all its trials together
    definition: str
    range: str = ""
    source: str = ""

    @property
    def heading(self) -> str:
        """Label and unit, for an axis or a column."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


_L1 = "Shamir & Coviello 2020 (arXiv 2010.09923)"
_FLIPS = "flips of Dutta et al. 2024 (arXiv 2407.09141), signed"
_RELATIVE = "Shamir, Lin & Coviello 2020 (arXiv 2010.09931)"

METRICS = (
    Metric("relative_pd", "Avg_Relative_PD", "relative PD", "", "lower", "pair",
           "mean over positions of Σ_v |p_i − p_j| / Σ_v (p_i + p_j)", "0 – 1",
           f"L1 prediction difference of {_L1}, normalised"),
    Metric("pd_l1", "", "PD, L1", "", "lower", "pair", "mean of ‖p_i − p_j‖₁: twice `relative_pd`", "0 – 2", _L1),
    Metric("pd_l2", "Avg_PD_L2", "PD, L2", "", "lower", "pair", "mean of ‖p_i − p_j‖₂", "0 – √2", _L1),
    Metric("symmetric_pd", "Avg_Symmetric_PD", "symmetric PD", "", "lower", "pair",
           "mean over positions and tokens of 2|p_i − p_j| / (p_i + p_j)", "0 – 2", _RELATIVE),
    Metric("true_label_relative_pd", "Avg_True_Label_PD", "true-label PD", "", "lower", "pair",
           "mean over positions of 2|p_i(y) − p_j(y)| / (p_i(y) + p_j(y)), y the true next token", "0 – 2",
           f"{_RELATIVE}, Δ^L"),
    Metric("hellinger", "Avg_Hellinger", "Hellinger", "", "lower", "pair", "mean of ‖√p_i − √p_j‖₂ / √2", "0 – 1",
           _RELATIVE),
    Metric("jensen_shannon", "Avg_Jensen_Shannon", "Jensen–Shannon", "nats", "lower", "pair",
           "mean Jensen–Shannon divergence", "0 – ln 2", "Lin 1991"),
    Metric("prediction_differences", "", "positions predicted otherwise", "", "lower", "pair",
           "positions at which the most likely token differs (churn)", "0 – N", "Milani Fard et al. 2016"),
    Metric("right_to_wrong", "Avg_Right_To_Wrong", "right → wrong", "positions", "lower", "pair",
           "of `prediction_differences`: i predicts the true next token, j (a later trial) not", "0 – N", _FLIPS),
    Metric("wrong_to_right", "Avg_Wrong_To_Right", "wrong → right", "positions", "lower", "pair",
           "of `prediction_differences`: j predicts the true next token and i another", "0 – N", _FLIPS),
    Metric("wrong_to_wrong", "Avg_Wrong_To_Wrong", "wrong → other wrong", "positions", "lower", "pair",
           "of `prediction_differences`: neither predicts the true next token", "0 – N", _FLIPS),
    Metric("total_predictions", "", "positions", "", "", "pair", "N"),
    Metric("top1_mismatch_pct", "Avg_Pred_Diff_Pct", "top-1 mismatch", "%", "lower", "pair",
           "100 · `prediction_differences` / N", "0 – 100"),
    Metric("val_loss_difference", "Avg_Val_Loss_Difference", "loss difference", "nats/token", "lower", "pair",
           "|loss_i − loss_j| on the validation windows", "≥ 0"),
    Metric("set_prediction_difference", "Set_PD", "set-based PD", "", "lower", "activation",
           "mean over positions and models of ‖p_m − p̄‖₁, p̄ the mean prediction of all trials", "0 – 2", _L1),
    Metric("val_loss", "Avg_Val_Loss", "validation loss", "nats/token", "lower", "trial",
           "mean of −ln p(y) over all tokens of the fixed windows of the validation text", "≥ 0"),
    Metric("train_loss", "Avg_Train_Loss", "training loss", "nats/token", "lower", "trial",
           "the same over fixed windows of the training text", "≥ 0"),
    Metric("best_val_loss", "Avg_Best_Val_Loss", "best validation loss, at the probe", "nats/token", "lower", "trial",
           "the lowest validation loss along training, at the fewer positions of the probe: to be compared with the "
           "last one of the curve, not with `Avg_Val_Loss`", "≥ 0"),
    Metric("val_accuracy", "Avg_Val_Accuracy", "validation accuracy", "%", "higher", "trial",
           "positions of the validation windows at which the most likely token is the true one", "0 – 100"),
    Metric("train_accuracy", "Avg_Train_Accuracy", "training accuracy", "%", "higher", "trial",
           "the same for the training windows", "0 – 100"),
    Metric("training_time", "Avg_Training_Time_Sec", "training time", "s", "lower", "trial",
           "training alone, without evaluation, compilation and saving", "≥ 0"),
    Metric("tokens_per_second", "Median_Tokens_Per_Sec", "tokens per second", "", "higher", "trial",
           "tokens trained on / `training_time`", "≥ 0"),
)  # fmt: skip
BY_KEY = {metric.key: metric for metric in METRICS}


def metrics_of(kind: str) -> Iterable[Metric]:
    """The metrics of a 'pair', a 'trial' or an 'activation'."""
    return (metric for metric in METRICS if metric.of == kind)
