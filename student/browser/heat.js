// Heat maps with the colours and opacity of `overlay` in student/edge.py.

/** Nine evenly spaced colours of the "inferno" map, cold to hot. */
export const HEAT = [
  [0, 0, 4], [33, 12, 74], [87, 16, 110], [138, 34, 106], [188, 55, 84],
  [228, 90, 49], [249, 142, 9], [249, 203, 53], [252, 255, 164],
];

/** Red, green, blue and opacity of 256 levels; hotter levels are more opaque. */
const LEVELS = Uint8ClampedArray.from({ length: 256 * 4 }, (_, place) => {
  const share = Math.floor(place / 4) / 255;
  const channel = place % 4;
  if (channel === 3) return 255 * share * (2 - share);
  const step = Math.min(Math.floor(share * (HEAT.length - 1)), HEAT.length - 2);
  const rest = share * (HEAT.length - 1) - step;
  return HEAT[step][channel] * (1 - rest) + HEAT[step + 1][channel] * rest;
});

/** Write a map with values in [0, 1] into the RGBA bytes of an image of the same size. */
export function paint(map, rgba) {
  for (let place = 0; place < map.length; place++) {
    const level = 4 * Math.round(255 * map[place]);
    rgba.set(LEVELS.subarray(level, level + 4), 4 * place);
  }
}
