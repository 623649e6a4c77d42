"""Plans as files: what every layer becomes, to look at, to keep, to apply again.

The same plan, model, data and seed give the same bytes. A plan belongs to one model, whose digest it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ndpass.errors import InputError, UsageError
from ndpass.files.staging import write_text
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Site
from ndpass.passes import Merging, Pass, Setting, parse
from ndpass.planning.blocks import Mergeable, mergeable, without_merged
from ndpass.planning.candidate import Candidate, Choice
from ndpass.planning.candidates import block_of
from ndpass.planning.shared_channels import SharedChannels, channel_group
from ndpass.run.resolution import HELD_OUT
from ndpass.version import VERSION

KEPT = "kept by the plan"


class PlanFile(BaseModel):
    """passes: their order, names only; layers: {layer: {pass: {option: value}}}, empty where it stays as it is."""

    model_config = ConfigDict(extra="forbid")

    ndpass: str = VERSION
    model: str  # digest of the file and its external data
    passes: list[str]
    budget: dict[str, JsonValue] = Field(default_factory=dict)
    target: dict[str, JsonValue] = Field(default_factory=dict)
    layers: dict[str, dict[str, dict[str, int | str]]]
    held_out: float = Field(HELD_OUT, gt=0, lt=1)  # share of the calibration data that layers were not fitted to

    @classmethod
    def read(cls, path: Path) -> PlanFile:
        """Raises InputError for a file that is no plan."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as e:
            raise InputError(f"--plan {path}: cannot be read: {e.strerror}") from e
        except ValueError as e:  # pydantic's are
            first = e.errors()[0] if isinstance(e, ValidationError) else {"loc": ("file",), "msg": str(e)}
            where = ".".join(map(str, first["loc"])) or "file"
            raise InputError(f"--plan {path}: not a plan: {where}: {first['msg']} (--save-plan writes one)") from e

    @classmethod
    def load(cls, path: Path, model: str) -> PlanFile:
        """The plan, if it is one for the model with this digest. Raises InputError."""
        plan = cls.read(path)
        if plan.model != model:
            raise InputError(f"--plan {path} was made for another model: plan this one anew")
        return plan

    def to_json(self) -> str:
        """The file's text, with a newline at the end."""
        return self.model_dump_json(indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Write the plan, whole or not at all. Raises OutputError."""
        write_text(path, self.to_json())

    def rules(self) -> list[Pass]:
        """The passes in order. Raises UsageError for one that there is not."""
        return parse(",".join(self.passes))

    def choices(self, graph: Graph, sites: Sequence[Site]) -> dict[str, Choice]:
        """Site name -> what it becomes. Raises InputError for a layer or a setting that the model does not have."""
        known = {site.name: site for site in sites}
        for name, settings in self.layers.items():
            if settings and name not in known:
                raise InputError(f"the plan rewrites layer '{name}', which this model has not or no pass can rewrite")
        rules = self.rules()
        blocks = mergeable(graph, rules, list(known), calibrated=True)
        plan = {
            name: self._choice(graph, site, self.layers.get(name, {}), blocks.get(name)) for name, site in known.items()
        }
        self._check_together(SharedChannels.of(graph, sites, rules), plan)
        return without_merged(plan, blocks)

    def _check_together(self, together: SharedChannels, plan: Mapping[str, Choice]) -> None:
        """Raises InputError where layers that read the same channels are not pruned alike."""
        for name, first in together.leaders.items():
            if together.setting(plan[name].candidate) != together.setting(plan[first].candidate):
                raise InputError(
                    f"the plan's layers '{first}' and '{name}' read the same channels: give both the same "
                    f"{together.pruning}, or neither"
                )

    def _choice(self, graph: Graph, site: Site, settings: Mapping[str, Setting], block: Mergeable | None) -> Choice:
        rules = self.rules()
        merges = any(isinstance(rule, Merging) and rule.name in settings for rule in rules)
        looked_at = replace(site, outline=block.branch.outline) if merges and block else site
        for name, setting in settings.items():
            rule = next((r for r in rules if r.name == name), None)
            if rule is None:
                raise InputError(f"the plan's layer '{site.name}' names pass '{name}', its passes are {self.passes}")
            _check(rule, looked_at, setting)
        if merges:
            return _merged(site, settings, block)
        group: Group | str = channel_group(graph, site, rules)
        macs = site.macs(block_of(site, rules, settings, group))
        assert macs is not None
        return Choice(Candidate(macs, 0.0, dict(settings)), "" if settings else KEPT)


def _merged(site: Site, settings: Mapping[str, Setting], block: Mergeable | None) -> Choice:
    """The last layer of a block that the plan merges. Raises InputError where it is none, or where a pass stands beside
    the one that merges that does not come behind it."""
    whose = f"the plan's layer '{site.name}' has settings of {', '.join(settings)}"
    if block is None:
        raise InputError(f"{whose}, which merge blocks: it is the last layer of none")
    names = [block.rule.name, *(rule.name for rule in block.behind)]
    if not settings.keys() <= set(names):
        raise InputError(f"{whose}: beside {names[0]} there may be {', '.join(names[1:]) or 'no other'}")
    return Choice(Candidate(block.cost(settings), 0.0, dict(settings)))


def _check(rule: Pass, site: Site, setting: Setting) -> None:
    try:
        type(rule)(**setting)
    except UsageError as e:
        raise InputError(f"the plan's layer '{site.name}': {e}") from e
    needed = {key for one in rule.settings(site.outline)[:1] for key in one}
    if missing := needed - set(setting):
        raise InputError(f"the plan's layer '{site.name}': pass '{rule.name}' lacks {', '.join(sorted(missing))}")
