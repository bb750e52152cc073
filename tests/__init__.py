"""Tests: unit (no Ray, no Redis), integration (real servers), chaos, gpu, browser."""
