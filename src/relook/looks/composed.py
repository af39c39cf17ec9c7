"""What a look needs that is made of other looks."""

from __future__ import annotations

from abc import ABC, abstractmethod

from relook.looks.protocol import Look, detail, needs_layer


class Composed(ABC):
    """A look that is made of other looks, and needs what any of them needs."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Look, ...]:
        """The looks that it is made of."""

    @property
    def needs_activations(self) -> bool:
        """Whether any of the looks needs the target layer's maps."""
        return any(look.needs_activations for look in self.parts)

    @property
    def needs_layer(self) -> bool:
        """Whether any of the looks requires a target layer."""
        return any(needs_layer(look) for look in self.parts)

    @property
    def needs_original(self) -> bool:
        """Whether any of the looks needs the original image."""
        return any(look.needs_original for look in self.parts)

    @property
    def detail(self) -> float:
        """The largest scale at which any of the looks sees the original image."""
        return max(detail(look) for look in self.parts)
