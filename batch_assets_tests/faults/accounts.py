"""An account at an API: a real local Batch API of its own, and what a proxy shows of it.

What the API bills is computed from its own result files, after the faults of its batches, independent of our tables.
"""

import json
import time
from dataclasses import dataclass, field
from typing import Any

from batch_assets.batching.provider.prices import ModelPrice, batch_rates
from batch_assets.batching.provider.token_costs import cost_usd
from batch_assets_tests.faults.batch_faults import (
    BatchFaults,
    Results,
    errors_file_id,
    show_failed_lines,
    show_running,
    split_results,
)
from batch_assets_tests.local_api_client import LocalApi

MODEL = "gpt-4.1-nano"
PRICES = (ModelPrice(MODEL, 0.05, 0.2),)


@dataclass
class Account:
    """An account with a server of its own behind the proxy. The proxy finds it by `key`."""

    key: str
    api: str
    organization: str
    server: LocalApi
    hidden: dict[str, int] = field(default_factory=dict)  # batch id → how many listings do not show it
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)  # batches that failed as a whole
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    bills: dict[str, float] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)  # batch ids
    batch_faults: dict[str, BatchFaults] = field(default_factory=dict)
    results: dict[str, Results] = field(default_factory=dict)  # batch id → its result files, after its faults

    def batches(self) -> list[dict[str, Any]]:
        """All batches that were made, as the server has them once they have ended."""
        for batch_id in self.made:
            if batch_id not in self.ended:
                self.ended[batch_id] = self.server.wait(batch_id).model_dump()
        return list(self.ended.values())

    def bill(self, batch: dict[str, Any]) -> float:
        """What it used, at the price of the model, by its own result files."""
        if batch["id"] not in self.bills:
            self.bills[batch["id"]] = self._bill(batch)
        return self.bills[batch["id"]]

    def _bill(self, batch: dict[str, Any]) -> float:
        usages = [line["response"]["body"]["usage"] for line in self.results_of(batch).executed]
        rates = batch_rates(MODEL, own_prices=PRICES)
        costs = (
            cost_usd(rates, input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"])
            for usage in usages
        )
        return sum(cost for cost in costs if cost is not None)

    def results_of(self, batch: dict[str, Any]) -> Results:
        """The results of an ended batch, after its faults."""
        if batch["id"] not in self.results:
            lines: list[dict[str, Any]] = []
            for file_id in (batch["output_file_id"], batch["error_file_id"]):
                if file_id:
                    content = self.server.client.files.content(file_id).content
                    lines += [json.loads(line) for line in content.split(b"\n") if line]
            executed = [line for line in lines if line["response"] and line["response"]["status_code"] == 200]
            results = split_results(executed, self.faults_of(batch["id"]))
            results.errors.extend(line for line in lines if line not in executed)
            self.results[batch["id"]] = results
        return self.results[batch["id"]]

    def faults_of(self, batch_id: str) -> BatchFaults:
        return self.batch_faults.setdefault(batch_id, BatchFaults())

    def shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch of the server as the proxy shows it."""
        faults = self.faults_of(batch["id"])
        if faults.is_stuck:
            return show_running(batch, "finalizing")
        if time.time() < faults.runs_until:
            return show_running(batch, "in_progress")
        if faults.runs_until and batch["completed_at"]:
            batch = {**batch, "completed_at": int(faults.runs_until)}
        if faults.lines is not None and batch["output_file_id"]:
            return show_failed_lines(batch, self.results_of(batch))
        return batch

    def batch_of_file(self, file_id: str) -> dict[str, Any] | None:
        """The batch with this output file, or with the error file that only the proxy has."""
        return next(
            (
                batch
                for batch in self.batches()
                if (name := batch["output_file_id"]) and file_id in (name, errors_file_id(name))
            ),
            None,
        )

    def forget_batches(self) -> None:
        """Forget the batches of an earlier history: they do not belong to the next one."""
        for remembered in (self.made, self.ended, self.failed, self.batch_faults, self.results):
            remembered.clear()
