"""Images made worse in eight ways at five levels: noise, two blurs, dirty lens, exposure, snow, haze, decolorization."""

from .apply import CORRUPTIONS, LEVELS, Corruption, corrupt

__all__ = ["CORRUPTIONS", "LEVELS", "Corruption", "corrupt"]
