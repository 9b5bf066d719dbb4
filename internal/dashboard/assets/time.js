// span is a time between two moments, in seconds, as one says it.
export function span(seconds) {
  const far = Math.abs(seconds);
  if (far < 90) return `${Math.round(far)} s`;
  if (far < 5400) return `${Math.round(far / 60)} min`;
  if (far < 172800) return `${Math.round(far / 3600)} h`;
  return `${Math.round(far / 86400)} days`;
}
