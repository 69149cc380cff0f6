// Shows pictures of the gallery, no larger than they are looked at, and none before it is scrolled to.

import { address, hasKey, picture } from "./api.js";

const sized = (path, width) => {
  const pixels = width * Math.min(2, Math.ceil(devicePixelRatio));
  return `${path}${path.includes("?") ? "&" : "?"}width=${pixels}`;
};

// An <img> sends no key: with one, its bytes are fetched by us when it comes into sight.
const sight = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      sight.unobserve(target);
      load(target);
    }
  },
  { rootMargin: "400px" },
);

async function load(image) {
  const path = image.dataset.path;
  try {
    const url = URL.createObjectURL(await picture(path));
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    if (image.dataset.path === path) image.src = url;
  } catch {
    image.dispatchEvent(new Event("error"));
  }
}

// Lets an <img> show a picture of the gallery (its path on the server) that is `width` CSS pixels wide on the page.
export function showPicture(image, path, width) {
  const wanted = sized(path, width);
  if (image.dataset.path === wanted) return;
  image.dataset.path = wanted;
  image.removeAttribute("src");
  sight.unobserve(image);
  if (hasKey()) sight.observe(image);
  else image.src = address(wanted);
}

// Lets an <img> show a reference: a picture of the gallery, or the data of one that the user brought.
export function showReference(image, reference, width) {
  if (reference.data) {
    delete image.dataset.path;
    image.src = reference.data;
  } else if (reference.picture) {
    showPicture(image, reference.picture, width);
  }
}
