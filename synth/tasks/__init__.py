"""What a job can ask to be generated: one file each, one class each."""

from synth.tasks._task import Ask, Draw, Item, Observer, Task, TaskSettings, Writer

__all__ = ["Ask", "Draw", "Item", "Observer", "Task", "TaskSettings", "Writer"]
