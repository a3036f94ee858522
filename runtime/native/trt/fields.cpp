// nvinfer1::PluginField -> Fields, each one named in what is wrong with it.
#include "fields.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "log.h"

namespace nmk_trt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

enum Index { kWeights, kBytes, kFormat, kResidual, kRouted, kLayout, kName, kPattern, kCount };
using Found = std::array<const PluginField*, kCount>;

bool is_text(Index index) { return index == kFormat || index == kLayout || index == kName || index == kPattern; }

const char* name_of(Index index) { return field_names()[index].name; }

std::string list_of_names() {
    std::string all;
    for (const PluginField& field : field_names()) all += (all.empty() ? "" : ", ") + std::string(field.name);
    return all;
}

// Its place, or kCount.
Index index_of(const char* name) {
    const auto& names = field_names();
    const auto same = [&](const PluginField& field) { return name && !std::strcmp(field.name, name); };
    return static_cast<Index>(std::find_if(names.begin(), names.end(), same) - names.begin());
}

// The parser ends texts with a zero and counts it; others may not.
std::string text_of(const PluginField& field) {
    const char* const data = static_cast<const char*>(field.data);
    if (!data || field.length < 1) return "";
    return {data, strnlen(data, static_cast<size_t>(field.length))};
}

std::string layer_of(const char* node, const PluginField* name) {
    if (name && name->type == PluginFieldType::kCHAR && !text_of(*name).empty()) return text_of(*name);
    return node && *node ? node : "without a name";
}

void check_type(const std::string& layer, const PluginField& field, Index index) {
    const PluginFieldType wanted = field_names()[index].type;
    if (field.type != wanted) {
        throw Problem(layer, std::string("found field ") + field.name + " of type " +
                                 std::to_string(static_cast<int>(field.type)) + ", expected " +
                                 std::to_string(static_cast<int>(wanted)) +
                                 (is_text(index) ? " (CHAR)" : " (INT32)") + "; write the model again");
    }
    if (is_text(index)) return;
    if (!field.data || (index == kWeights ? field.length < 1 : field.length != 1)) {
        throw Problem(layer, std::string("found field ") + field.name + " with " + std::to_string(field.length) +
                                 " numbers, expected " + (index == kWeights ? "some" : "one") +
                                 "; write the model again");
    }
}

Found find(const char* node, const nvinfer1::PluginFieldCollection& given) {
    Found found{};
    std::string problem;
    for (int i = 0; i < given.nbFields; ++i) {
        const PluginField& field = given.fields[i];
        const Index index = index_of(field.name);
        const std::string name = field.name ? field.name : "without a name";
        if (index == kCount) {
            problem = "found field " + name + ", expected " + list_of_names();
        } else if (found[index]) {
            problem = "found field " + name + " twice, expected it once";
        } else {
            found[index] = &field;
        }
    }
    for (int i = 0; i < kCount; ++i) {
        if (!found[static_cast<size_t>(i)]) {
            problem = std::string("found no field ") + name_of(static_cast<Index>(i)) + ", expected " + list_of_names();
        }
    }
    if (!problem.empty()) throw Problem(layer_of(node, found[kName]), problem + "; write the model again");
    return found;
}

void check_values(const Fields& fields) {
    std::string problem;
    const int64_t room = 4 * static_cast<int64_t>(fields.weights.size());
    if (fields.format != "cuda") {
        problem = "format " + fields.format + ", expected cuda; write the model for TensorRT";
    } else if (fields.layout != "NCHW" && fields.layout != "NHWC") {
        problem = "layout " + fields.layout + ", expected NCHW or NHWC; write the model again";
    } else if (fields.routed != 0 && fields.routed != 1) {
        problem = "routed = " + std::to_string(fields.routed) + ", expected 0 or 1; write the model again";
    } else if (fields.bytes > room || fields.bytes <= room - 4) {
        problem = std::to_string(fields.bytes) + " bytes in " + std::to_string(fields.weights.size()) +
                  " words, expected as many as fill them; write the model again";
    }
    if (!problem.empty()) throw Problem(fields.name, "found " + problem);
}

}  // namespace

const std::vector<PluginField>& field_names() {
    constexpr PluginFieldType number = PluginFieldType::kINT32, text = PluginFieldType::kCHAR;
    static const std::vector<PluginField> names{
        {"weights", nullptr, number, 0}, {"bytes", nullptr, number, 1},  {"format", nullptr, text, 0},
        {"residual", nullptr, number, 1}, {"routed", nullptr, number, 1}, {"layout", nullptr, text, 0},
        {"name", nullptr, text, 0},       {"pattern", nullptr, text, 0}};
    return names;
}

Fields read_fields(const char* node, const nvinfer1::PluginFieldCollection* given) {
    if (!given || given->nbFields < 0 || (given->nbFields && !given->fields)) {
        throw Problem(layer_of(node, nullptr), "found no fields, expected " + list_of_names() + "; write the model again");
    }
    const Found found = find(node, *given);
    Fields fields;
    fields.name = layer_of(node, found[kName]);
    for (int i = 0; i < kCount; ++i) {
        check_type(fields.name, *found[static_cast<size_t>(i)], static_cast<Index>(i));
    }
    const auto number = [&](Index index) { return *static_cast<const int32_t*>(found[index]->data); };
    const auto* const words = static_cast<const int32_t*>(found[kWeights]->data);
    fields.weights.assign(words, words + found[kWeights]->length);
    fields.bytes = number(kBytes);
    fields.residual = number(kResidual);
    fields.routed = number(kRouted);
    fields.format = text_of(*found[kFormat]);
    fields.layout = text_of(*found[kLayout]);
    fields.pattern = text_of(*found[kPattern]);
    check_values(fields);
    return fields;
}

std::vector<PluginField> written_fields(const Fields& fields) {
    std::vector<PluginField> all = field_names();
    const auto write = [&](Index index, const void* data, size_t length) {
        all[index].data = data;
        all[index].length = static_cast<int32_t>(length);
    };
    write(kWeights, fields.weights.data(), fields.weights.size());
    write(kBytes, &fields.bytes, 1);
    write(kResidual, &fields.residual, 1);
    write(kRouted, &fields.routed, 1);
    write(kFormat, fields.format.c_str(), fields.format.size() + 1);
    write(kLayout, fields.layout.c_str(), fields.layout.size() + 1);
    write(kName, fields.name.c_str(), fields.name.size() + 1);
    write(kPattern, fields.pattern.c_str(), fields.pattern.size() + 1);
    return all;
}

}  // namespace nmk_trt
